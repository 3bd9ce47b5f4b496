"""Making reflow pairs: a teacher's ODE from noise at t = 0 to a latent at t = 1, batch by batch onto the disk."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import FIXED_METHODS, SolverStep, flow_grid, solve
from ...d2f_data.files.store import check_name
from ...d2f_data.fingerprints import content_digest, schedule_fingerprint
from ...d2f_data.reflow.pairs import ReflowPairSet
from ...d2f_data.reflow.plan import ReflowPairPlan
from ...d2f_data.reflow.writer import ReflowPairWriter
from .. import host
from ..fingerprints import weights_fingerprint
from ..network.cfg_velocity import CfgVelocity
from ..network.conditionings import first_entry, join
from .prompts import Prompts

GRID = "uniform"
SECONDS_BETWEEN_PICTURES = 3.0


@dataclass(frozen=True)
class ReflowPairSettings:
    """The widgets of the generator, under their names; see its tooltips."""

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
        """Where the set lies."""
        return host.pairs_folder() / check_name(self.name, "the name of the pairs")

    def check(self, has_negative: bool) -> None:
        """Raise ValueError for widgets that contradict the inputs."""
        if self.cfg != 1 and not has_negative:
            raise ValueError(
                f"cfg is {self.cfg:g} but nothing is connected to 'negative'; connect the conditioning of an empty "
                "prompt, or set cfg to 1"
            )


class ReflowPairGenerator:
    """Makes the pairs of a set that are not there yet.

    Args:
        model: MODEL of the teacher, converted or not, with its LoRAs.
        network: its network, as ``host.training`` gives it.
        settings: the widgets.
        prompts: what the pairs show; pair i has prompt i modulo their number.
        negative: CONDITIONING for the guidance; None where cfg is 1.
        node_id: of the node, for its text.
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
        guided = settings.cfg != 1
        self.null = network.condition([first_entry([negative], "negative")], shape) if guided else None
        teacher = self._teacher()
        self.plan = ReflowPairPlan(shape, settings.count, settings.seed, teacher, settings.shard_size, settings.storage)
        self.times = flow_grid(GRID, settings.steps)
        self.progress = host.NodeProgress(settings.count * settings.steps, node_id)
        self.made, self._drawn, self._start = 0, 0.0, time.perf_counter()

    @torch.no_grad()
    def run(self) -> ReflowPairSet:
        """The finished set; a cancel keeps what is made."""
        with ReflowPairWriter(self.settings.folder, self.plan, self.prompts.texts, self.conditions) as writer:
            self._start = time.perf_counter()
            for items in writer.missing(self.settings.batch_size):
                done = writer.done
                eps = self.plan.noise(items)
                told = join([self.conditions[writer.prompt_of(item)] for item in items])
                x0 = self.sample(eps, told, done)
                writer.add(items, eps, x0)
                self.made += len(items)
                self._show(done + len(items), 0, len(items), x0)
        return ReflowPairSet(self.settings.folder)

    def sample(self, eps: Tensor, condition: host.Condition, done: int = 0) -> Tensor:
        """Where noise (B, C, h, w) leads, in model space; ``done`` pairs are there already."""
        velocity = CfgVelocity(self.network, self.network.alignment, condition, self.null, self.settings.cfg)

        def report(step: SolverStep) -> None:
            self._show(done, step.index + 1, len(eps))

        return solve(velocity, eps.to(self.network.device), self.times, self.settings.solver, on_step=report)

    def _show(self, done: int, step: int, batch: int, x0: Tensor | None = None) -> None:
        steps = self.settings.steps
        text = f"{done} of {self.plan.count} pairs"
        pace = (time.perf_counter() - self._start) / (self.made + batch * step / steps or 1)
        if self.made:
            text += f", {1 / pace:.3g} pairs/s, {round(pace * (self.plan.count - done) / 60)} min left"
        picture = None
        if x0 is not None and time.perf_counter() - self._drawn > SECONDS_BETWEEN_PICTURES:
            picture, self._drawn = host.quick_picture(self.model, x0[:1]), time.perf_counter()
        self.progress.show(done * steps + step * min(batch, self.plan.count - done), text, picture)

    def _teacher(self) -> dict[str, str | int | float | bool | None]:
        """All about the teacher that decides where a noise leads."""
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


def describe(pairs: ReflowPairSet, made: int, seconds: float) -> str:
    """The set in a few lines."""
    told = pairs.settings
    guided = 1 if told["cfg"] == 1 else 2
    calls = told["steps"] * len(FIXED_METHODS[told["solver"]].c) * guided
    lines = [
        repr(pairs).strip("<>"),
        f"teacher: {told['base_model']} {told['base']}, {told['solver']} {told['steps']} steps ({calls} model calls), "
        f"cfg {told['cfg']:g}, seed {told['seed']}",
        f"latents: {told['latent_space']}, {told['storage']}",
        f"folder: {pairs.folder} ({pairs.bytes / 2**20:.1f} MiB)",
    ]
    if made:
        lines.append(f"made {made} pairs in {seconds:.1f} s ({made / max(seconds, 1e-9):.3g} pairs/s)")
    return "\n".join([*lines, "prompts:", *_some(pairs.prompts)])


def _some(prompts: Sequence[str], most: int = 8) -> list[str]:
    rest = len(prompts) - most
    return [f"  {text}" for text in prompts[:most]] + ([f"  and {rest} more"] if rest > 0 else [])
