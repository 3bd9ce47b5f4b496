"""Generation of reflow pairs: integrates the teacher's ODE from noise at t = 0 to a latent at t = 1 in batches.

The host samples, so the teacher is what the user's sampler would run. The student learns from noise, latent and
text alone: what else the teacher was given (guidance, ControlNets, timestep ranges) is part of it, as its weights are.
Every finished batch is handed to the writer, so a cancelled run keeps it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import FIXED_METHODS, check_steps, flow_grid, solve_windows
from ...d2f_data.fingerprints import content_digest, schedule_fingerprint, weights_fingerprint
from ...d2f_data.reflow.pair_set import ReflowPairSet
from ...d2f_data.reflow.plan import ReflowPairPlan
from ...d2f_data.reflow.writer import ReflowPairWriter
from .. import host
from ..network.caption_checks import check_captions
from ..network.conditionings import some_entries
from .guidance import GuidedVelocity, check_guidance
from .prompts import Prompts, sampling_groups

GRID = "uniform"
NODE = "Generate Reflow Pairs (Diff2Flow)"
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
    windows: str = "1"

    @property
    def window_count(self) -> int:
        """Number of windows whose edges the teacher's states are stored at."""
        return int(self.windows)

    @property
    def folder(self) -> Path:
        """Folder of the set. Raises ValueError if the name leads out of the folder of all sets."""
        return host.pair_set_folder(self.name)

    def check(self, has_negative: bool, model: Any) -> None:
        """Raise ValueError if the widgets contradict the connected inputs."""
        check_guidance("cfg", self.cfg, has_negative, model)
        check_steps(self.steps, self.window_count)
        host.pair_set_folder(self.name)


class ReflowPairGenerator:
    """Generates the pairs that a set does not hold yet.

    Args:
        model: MODEL of the teacher, diffusion or flow matching, with everything that nodes have put on it.
        settings: values of the widgets.
        prompts: prompts of the pairs; pair i has prompt i modulo their number.
        negative: CONDITIONING for guidance; not used if cfg is 1.
        node_id: id of the running node, for its progress text; None shows no text.

    Attributes:
        generated: number of pairs that ``run`` has added to the set.
    """

    def __init__(
        self, model: Any, settings: ReflowPairSettings, prompts: Prompts, negative: Any, node_id: str | None = None
    ) -> None:
        self.settings, self.prompts = settings, prompts
        self.model = host.as_teacher(model, NODE)
        self.negative = negative if host.needs_negative(model, settings.cfg) else None
        negatives = [] if self.negative is None else some_entries([negative[:1]], "negative")
        shape = host.latent_shape(model, settings.width, settings.height)
        with host.inspected(model, settings.precision, node=NODE) as network:
            check_captions(prompts.entries, network.module, prompts.source)
            check_captions(negatives, network.module, "negative")
            self.conditions = [network.condition([entry], shape) for entry in prompts.entries]
            null = network.condition(negatives, shape) if negatives else None
            teacher = {**self._teacher(network, null), **host.identity_of(model, self._conditionings())}
        stored = settings.shard_size, settings.storage, settings.window_count
        self.plan = ReflowPairPlan(shape, settings.count, settings.seed, teacher, *stored)
        self.times = flow_grid(GRID, settings.steps)
        self.progress = host.NodeProgress(settings.count * settings.steps, node_id)
        self.generated, self._last_preview, self._start = 0, 0.0, time.perf_counter()

    @torch.no_grad()
    def run(self) -> ReflowPairSet:
        """Generate all missing pairs and open the finished set; a cancelled run keeps its finished batches."""
        writing = ReflowPairWriter(self.settings.folder, self.plan, self.prompts.texts, self.conditions)
        with host.cancelled_on_shutdown(), writing as writer:
            self._start = time.perf_counter()
            try:
                for items in writer.missing(self.settings.batch_size):
                    self._add(items, writer)
            except BaseException:
                host.settle(f"Stopped at {writer.done} of {self.plan.count} pairs, which are kept. Run again to go on.")
                raise
        return ReflowPairSet(self.settings.folder)

    def _add(self, items: Sequence[int], writer: ReflowPairWriter) -> None:
        """Generate a batch of pairs."""
        done, eps = writer.done, self.plan.noise(items)
        states = self.sample(eps, [writer.prompt_of(item) for item in items], done)
        writer.add(items, eps, states[-1], states[1:-1].movedim(0, 1))
        self.generated += len(items)
        self._show(done + len(items), 0, len(items), states[-1])

    def sample(self, eps: Tensor, prompts: Sequence[int], done: int = 0) -> Tensor:
        """Integrate the teacher's ODE from a batch of noise.

        Args:
            eps: noise, (B, C, h, w).
            prompts: index of the prompt of each item.
            done: number of pairs that the set holds already, for the progress bar.

        Returns:
            States at the edges of the windows, from the noise to the latents, (windows + 1, B, C, h, w) in model space.
        """
        groups = sampling_groups([self.prompts.entries[prompt] for prompt in prompts])
        states = torch.empty(self.settings.window_count + 1, *eps.shape)
        for number, (rows, positive) in enumerate(groups):

            def report(steps: int, before: float = number / len(groups)) -> None:
                self._show(done, before * self.settings.steps + steps / len(groups), len(eps))

            states[:, rows] = self._sample(eps[rows], positive, report)
        return states

    def _sample(self, eps: Tensor, positive: Any, report: Callable[[int], None]) -> Tensor:
        """The states of noise under one CONDITIONING, (windows + 1, B, C, h, w), on the CPU."""
        settings, reached = self.settings, torch.empty(0)

        def run(denoise: Any, x: Tensor) -> Tensor:
            nonlocal reached
            _check_start(x.cpu(), eps)
            velocity, windows = GuidedVelocity(denoise), settings.window_count
            reached = solve_windows(velocity, x, self.times, windows, settings.solver, report)
            return reached[-1]

        host.in_guider(
            self.model,
            eps,
            positive,
            self.negative,
            settings.cfg,
            (1 - self.times).float(),
            run,
            host.COMPUTE_DTYPES[settings.precision],
            settings.seed,
        )
        return reached.cpu()

    def _conditionings(self) -> list[Any]:
        """All CONDITIONINGs of the run, the negative first."""
        return [*([] if self.negative is None else [self.negative]), *([entry] for entry in self.prompts.entries)]

    def _show(self, done: int, step: float, batch: int, x0: Tensor | None = None) -> None:
        """Update bar and text after ``step`` steps of a batch; with ``x0`` at times also the preview."""
        steps = self.settings.steps
        text = f"{done} of {self.plan.count} pairs"
        seconds_per_pair = (time.perf_counter() - self._start) / (self.generated + batch * step / steps or 1)
        if self.generated:
            minutes = seconds_per_pair * (self.plan.count - done) / 60
            text = f"{round(minutes)} min left, {text}, {1 / seconds_per_pair:.3g} pairs/s"
        position = done * steps + int(step * min(batch, self.plan.count - done))
        self.progress.show(position, text, None if x0 is None else self._preview(x0))

    def _preview(self, x0: Tensor) -> Any | None:
        """PIL image of the first latent, unless the last one is less than ``SECONDS_BETWEEN_PREVIEWS`` old."""
        if time.perf_counter() - self._last_preview <= SECONDS_BETWEEN_PREVIEWS:
            return None
        picture, self._last_preview = host.quick_picture(self.model, x0[:1]), time.perf_counter()
        return picture

    def _teacher(
        self, network: host.TrainingNetwork, null: host.Condition | None
    ) -> dict[str, str | int | float | bool | None]:
        """What determines which latent a noise leads to, besides what nodes have put on MODEL and CONDITIONINGs."""
        settings, alignment = self.settings, network.alignment
        return {
            "base_model": host.model_name(self.model),
            "base": weights_fingerprint(network.module),
            "prediction": alignment.prediction,
            "coordinates": type(alignment).__name__,
            "schedule": schedule_fingerprint(alignment.schedule, alignment.sigma_data)[:16],
            "latent_space": host.latent_space(self.model),
            "solver": settings.solver,
            "steps": settings.steps,
            "grid": GRID,
            "cfg": settings.cfg,
            "negative": "" if null is None else content_digest(null)[:16],
            "precision": str(network.dtype).removeprefix("torch."),
        }


def _check_start(x: Tensor, eps: Tensor) -> None:
    """Raise ValueError unless sampling begins at the noise of the pairs."""
    if not torch.allclose(x, eps, rtol=1e-4, atol=1e-4):
        raise ValueError(
            "a node on this model changes the noise that sampling starts from, so a pair would not hold the "
            "noise that its latent came from; remove that node for generating pairs"
        )


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
    besides = [str(settings[name]) for name in ("patches", "conditioning") if name in settings]
    lines = [
        repr(pairs).strip("<>"),
        f"teacher: {settings['base_model']} {settings['base']}, {settings['solver']} {settings['steps']} steps "
        f"({evaluations} network evaluations per pair), cfg {settings['cfg']:g}, seed {settings['seed']}",
        f"latents: {settings['latent_space']}, {settings['storage']}",
        f"folder: {pairs.folder} ({pairs.bytes / 2**20:.1f} MiB)",
    ]
    if besides:
        lines.append(f"part of the teacher alone, which the student learns without: {'; '.join(besides)}")
    if generated:
        lines.append(f"generated {generated} pairs in {seconds:.1f} s ({generated / max(seconds, 1e-9):.3g} pairs/s)")
    return "\n".join([*lines, "prompts:", *_list_prompts(pairs.prompts)])


def _list_prompts(prompts: Sequence[str], most: int = 8) -> list[str]:
    rest = len(prompts) - most
    return [f"  {text}" for text in prompts[:most]] + ([f"  and {rest} more"] if rest > 0 else [])
