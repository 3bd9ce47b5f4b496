"""Online windows, for comparison: each starts from a noised real latent, as PeRFlow does it (arXiv 2405.07510).

For a latent x0, noise eps, and the window k that begins at t_k, the teacher goes through the window alone,

    start_k = t_k x0 + (1 - t_k) eps        end_k = teacher(start_k, t_k -> t_{k+1})

and the student learns the line from one to the other. All windows of a latent together cost what one path of the
teacher costs, so as many latents as there are pairs are the same number of teacher calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diff2flow_kit.d2f_core import Batch, Interpolant, edges, flow_grid, for_autograd, make_adapters, per_item, solve
from diff2flow_kit.d2f_data.files.lora_file import lora_tensors
from diff2flow_kit.d2f_data.training.plan import TrainingPlan
from diff2flow_kit.demo import evaluate, render
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.network.cfg_velocity import CfgVelocity
from diff2flow_kit.nodes.network.conditionings import join
from diff2flow_kit.nodes.training.options.trainer_options import option_defaults
from diff2flow_kit.nodes.training.widgets import training_widgets

BATCH = 32


class Chords(Batch):
    """A batch whose windows begin where they will: ``waypoints`` are starts and ends, (B, 2 windows, *)."""

    @property
    def windows(self) -> int:
        return self.waypoints.shape[1] // 2

    def on_path(self, eps: Tensor, t: Tensor) -> Interpolant:
        window = (t * self.windows).floor().clamp(0, self.windows - 1)
        rows, at = torch.arange(len(t)), window.long()
        start, end = self.waypoints[rows, at], self.waypoints[rows, self.windows + at]
        velocity, begin = (end - start) * self.windows, per_item(window / self.windows, start)
        return Interpolant(start + (1 - begin) * velocity, start - begin * velocity, t)


class OnlineItems:
    """Training items: latents (N, C, h, w) in model space, their conditions, and the teacher's way through windows."""

    def __init__(
        self, network: Any, latents: Tensor, conditions: list, null: Any, windows: int, steps: int, cfg: float
    ) -> None:
        self.groups, self.latents, self.conditions = [range(len(latents))], latents, conditions
        generator = torch.Generator().manual_seed(0)
        starts, ends = [], []
        for first in range(0, len(latents), BATCH):
            x0 = latents[first : first + BATCH]
            eps = torch.randn(x0.shape, generator=generator)
            velocity = CfgVelocity(network, network.alignment, join(conditions[first : first + BATCH]), null, cfg)
            times = edges(windows)
            starts.append(torch.stack([t * x0 + (1 - t) * eps for t in times[:-1].float()], dim=1))
            found = []
            for k, start in enumerate(starts[-1].unbind(1)):
                grid = flow_grid("uniform", steps)[k * steps // windows : (k + 1) * steps // windows + 1]
                found.append(solve(velocity, start, grid, "euler"))
            ends.append(torch.stack(found, dim=1))
        self.chords = torch.cat([torch.cat(starts), torch.cat(ends)], dim=1)

    def batch(self, items: Sequence[int], drop: Sequence[bool]) -> Batch:
        rows = list(items)
        condition = join([self.conditions[row] for row in rows])
        return Chords(self.latents[rows], condition, eps=self.latents[rows], waypoints=self.chords[rows])


def online_lora(
    model: Any, vae: Any, clip: Any, scenes: list, settings: dict[str, Any], windows: int, steps: int, cfg: float
) -> dict[str, Tensor]:
    """A LoRA that was trained on online windows of rendered scenes.

    Args:
        model, vae, clip: MODEL, VAE and CLIP. scenes: what is rendered.
        settings: widgets of the trainer; others are at their default.
        windows, steps, cfg: number of windows, and steps of the teacher over all of them, under its guidance.
    """
    defaults = {one.id: one.default for one in training_widgets()} | option_defaults()
    plan = TrainingPlan(**defaults | settings)
    images, prompts = render.render_batch(scenes)[0], evaluate.prompts_for(scenes)[0]
    latents = model.model.process_latent_in(torch.cat([vae.encode(part) for part in images.split(BATCH)]).float().cpu())
    entries = [entry for prompt in prompts for entry in evaluate.encode_prompts(clip, [prompt])]
    with host.training(model, plan.precision) as network:
        shape, latents = tuple(latents.shape[1:]), for_autograd(latents)
        conditions = [network.condition([entry], shape) for entry in entries]
        with torch.no_grad():
            null = network.condition(evaluate.encode_prompts(clip, [""]), shape)
            items = OnlineItems(network, latents, conditions, null, windows, steps, cfg)
        adapters = make_adapters(network.module, plan.adapters(), torch.Generator().manual_seed(plan.seed))
        trainer = plan.make_trainer(network, adapters, items)
        for _ in trainer.run(plan.steps):
            pass
        tensors = lora_tensors(trainer.averaged(), host.lora_names(model))
        return {name: value.clone() for name, value in tensors.items()}
