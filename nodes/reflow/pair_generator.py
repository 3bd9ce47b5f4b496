"""Generation of reflow pairs: integrates the teacher's ODE from noise at t = 0 to a latent at t = 1 in batches.

Every finished batch is handed to the writer, so a cancelled run keeps it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import FIXED_METHODS, SolverStep, flow_grid, solve
from ...d2f_data.fingerprints import content_digest, schedule_fingerprint
from ...d2f_data.reflow.pair_set import ReflowPairSet
from ...d2f_data.reflow.plan import ReflowPairPlan
from ...d2f_data.reflow.writer import ReflowPairWriter
from .. import host
from ..fingerprints import weights_fingerprint
from ..network.cfg_velocity import CfgVelocity
from ..network.conditionings import join
from .guidance import check_guidance, null_condition
from .prompts import Prompts

GRID = "uniform"
SECONDS_BETWEEN_PREVIEWS = 3.0


@dataclass(frozen=True)
class ReflowPairSettings:
    """The widgets of Generate Reflow Pairs, under the same names; its tooltips explain them."""

    name: str
    count: int
    steps: int
    cfg: float
    solver: str
    width: int
    height: int
    batch_size: int
    seed: int
    precision: str
    storage: str
    shard_size: int

    @property
    def folder(self) -> Path:
        """Folder of the set. Raises ValueError if the name leads out of the folder of all sets."""
        return host.pair_set_folder(self.name)

    def check(self, has_negative: bool) -> None:
        """Raise ValueError if the widgets contradict the connected inputs."""
        check_guidance("cfg", self.cfg, has_negative)
        host.pair_set_folder(self.name)


class ReflowPairGenerator:
    """Generates the pairs that a set does not hold yet.

    Args:
        model: MODEL of the teacher, converted or not, including its LoRAs.
        network: the network of ``model``, from ``host.training``.
        settings: values of the widgets.
        prompts: prompts of the pairs; pair i has prompt i modulo their number.
        negative: CONDITIONING for guidance; not used if cfg is 1.
        node_id: id of the running node, for its progress text; None shows no text.

    Attributes:
        generated: number of pairs that ``run`` has added to the set.
    """

    def __init__(
        self,
        model: Any,
        network: host.TrainingNetwork,
        settings: ReflowPairSettings,
        prompts: Prompts,
        negative: Any,
        node_id: str | None = None,
    ) -> None:
        self.model, self.network, self.settings, self.prompts = model, network, settings, prompts
        shape = host.latent_shape(model, settings.width, settings.height)
        self.conditions = [network.condition([entry], shape) for entry in prompts.entries]
        self.null = null_condition(network, negative, settings.cfg, shape)
        teacher = self._teacher()
        self.plan = ReflowPairPlan(shape, settings.count, settings.seed, teacher, settings.shard_size, settings.storage)
        self.times = flow_grid(GRID, settings.steps)
        self.progress = host.NodeProgress(settings.count * settings.steps, node_id)
        self.generated, self._last_preview, self._start = 0, 0.0, time.perf_counter()

    @torch.no_grad()
    def run(self) -> ReflowPairSet:
        """Generate all missing pairs and open the finished set; a cancelled run keeps its finished batches."""
        writing = ReflowPairWriter(self.settings.folder, self.plan, self.prompts.texts, self.conditions)
        with host.cancelled_on_shutdown(), writing as writer:
            self._start = time.perf_counter()
            for items in writer.missing(self.settings.batch_size):
                done = writer.done
                eps = self.plan.noise(items)
                condition = join([self.conditions[writer.prompt_of(item)] for item in items])
                x0 = self.sample(eps, condition, done)
                writer.add(items, eps, x0)
                self.generated += len(items)
                self._show(done + len(items), 0, len(items), x0)
        return ReflowPairSet(self.settings.folder)

    def sample(self, eps: Tensor, condition: host.Condition, done: int = 0) -> Tensor:
        """Integrate the teacher's ODE from a batch of noise.

        Args:
            eps: noise, (B, C, h, w).
            condition: conditioning kwargs, tensors (B, ...).
            done: number of pairs that the set holds already, for the progress bar.

        Returns:
            Latents in model space, (B, C, h, w).
        """
        velocity = CfgVelocity(self.network, self.network.alignment, condition, self.null, self.settings.cfg)

        def report(step: SolverStep) -> None:
            self._show(done, step.index + 1, len(eps))

        return solve(velocity, eps.to(self.network.device), self.times, self.settings.solver, on_step=report)

    def _show(self, done: int, step: int, batch: int, x0: Tensor | None = None) -> None:
        """Update bar and text after ``step`` steps of a batch; with ``x0`` at times also the preview."""
        steps = self.settings.steps
        text = f"{done} of {self.plan.count} pairs"
        seconds_per_pair = (time.perf_counter() - self._start) / (self.generated + batch * step / steps or 1)
        if self.generated:
            minutes = seconds_per_pair * (self.plan.count - done) / 60
            text += f", {1 / seconds_per_pair:.3g} pairs/s, {round(minutes)} min left"
        position = done * steps + step * min(batch, self.plan.count - done)
        self.progress.show(position, text, None if x0 is None else self._preview(x0))

    def _preview(self, x0: Tensor) -> Any | None:
        """PIL image of the first latent, unless the last one is less than ``SECONDS_BETWEEN_PREVIEWS`` old."""
        if time.perf_counter() - self._last_preview <= SECONDS_BETWEEN_PREVIEWS:
            return None
        picture, self._last_preview = host.quick_picture(self.model, x0[:1]), time.perf_counter()
        return picture

    def _teacher(self) -> dict[str, str | int | float | bool | None]:
        """Everything about the teacher that determines which latent a noise tensor leads to."""
        settings, alignment = self.settings, self.network.alignment
        return {
            "base_model": host.model_name(self.model),
            "base": weights_fingerprint(self.network.module),
            "prediction": alignment.prediction,
            "coordinates": type(alignment).__name__,
            "schedule": schedule_fingerprint(alignment.schedule)[:16],
            "latent_space": host.latent_space(self.model),
            "solver": settings.solver,
            "steps": settings.steps,
            "grid": GRID,
            "cfg": settings.cfg,
            "negative": "" if self.null is None else content_digest(self.null)[:16],
            "precision": str(self.network.dtype).removeprefix("torch."),
        }


def describe(pairs: ReflowPairSet, generated: int = 0, seconds: float = 0.0) -> str:
    """A report on a set in a few lines.

    Args:
        pairs: the set.
        generated: number of pairs that this run has added; 0 leaves the speed out.
        seconds: time that they took.
    """
    settings = pairs.settings
    per_velocity = 1 if settings["cfg"] == 1 else 2  # guidance evaluates the network with and without the prompt
    evaluations = settings["steps"] * len(FIXED_METHODS[settings["solver"]].c) * per_velocity
    lines = [
        repr(pairs).strip("<>"),
        f"teacher: {settings['base_model']} {settings['base']}, {settings['solver']} {settings['steps']} steps "
        f"({evaluations} network evaluations per pair), cfg {settings['cfg']:g}, seed {settings['seed']}",
        f"latents: {settings['latent_space']}, {settings['storage']}",
        f"folder: {pairs.folder} ({pairs.bytes / 2**20:.1f} MiB)",
    ]
    if generated:
        lines.append(f"generated {generated} pairs in {seconds:.1f} s ({generated / max(seconds, 1e-9):.3g} pairs/s)")
    return "\n".join([*lines, "prompts:", *_list_prompts(pairs.prompts)])


def _list_prompts(prompts: Sequence[str], most: int = 8) -> list[str]:
    rest = len(prompts) - most
    return [f"  {text}" for text in prompts[:most]] + ([f"  and {rest} more"] if rest > 0 else [])
