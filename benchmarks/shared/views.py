"""Ways to sample a model, with the host's samplers: as a flow matching model, or as the diffusion model that it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.sampling.sigmas import flow_sigmas
from diff2flow_kit.nodes.training.load_lora import D2FLoadLora

BATCH = 32


@dataclass(frozen=True)
class View:
    """A way to sample a MODEL: the host's sampler, and sigmas for a number of steps."""

    model: Any
    sampler: str
    sigmas: Callable[[int], Tensor]

    def sample(self, noise: Tensor, steps: int, cfg: float, positive: Any, negative: Any, seed: int = 0) -> Tensor:
        """Latents like ``noise`` (N, C, h, w), one for each row of ``positive``; steps of one call, or a CFG pair."""
        sigmas = self.sigmas(steps)
        if len(sigmas) != steps + 1:
            raise ValueError(f"{self.sampler} makes {len(sigmas) - 1} steps where {steps} were asked for")
        sampler, found = comfy.samplers.sampler_object(self.sampler), []
        for rows in torch.arange(len(noise)).split(BATCH):
            prompts = [[cross[rows], {"pooled_output": extra["pooled_output"][rows]}] for cross, extra in positive]
            found.append(comfy.sample.sample_custom(
                self.model, noise[rows], cfg, sampler, sigmas, prompts, negative, torch.zeros_like(noise[rows]),
                disable_pbar=True, seed=seed,
            ))  # fmt: skip
        return torch.cat(found)


def as_flow(model: Any, start: str = "t_min") -> View:
    """Euler with equal steps in flow time, the model converted if it is not a flow."""
    flow = host.as_flow(model, start)
    return View(flow, "euler", partial(flow_sigmas, flow, {"grid": "uniform"}))


def as_it_is(model: Any, scheduler: str = "ddim_uniform") -> View:
    """The host's ddim."""
    return View(model, "ddim", partial(host.stock_sigmas, model, scheduler))


def with_lora(model: Any, lora: Any) -> Any:
    """MODEL with a LoRA of any trainer, converted as it was trained; as it is for None."""
    return model if lora is None else D2FLoadLora.execute(model, "none", 1.0, lora).args[0]


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Images (N, H, W, 3) of latents."""
    return torch.cat([vae.decode(part).float().cpu() for part in latents.split(BATCH)])


def noise_like(count: int, height: int, width: int, seed: int) -> Tensor:
    """Noise of latents for pictures of that size in pixels; the same for every model."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, height // 8, width // 8, generator=generator)
