"""The sampling loop: ComfyUI's denoiser in, d2f_core's ODE solvers around it.

The host hands a sampler function ``denoiser(x_fm, s) -> x0``, with CFG, masks and hooks inside. Its velocity is

    d x_fm / d t = (x0 - x_fm) / (1 - t) = (x0 - x_fm) / s

which does not exist at s = 0, so a run that ends there ends open (``d2f_core.solve``). Adaptive solvers stop
at the network's own last level, ``sigma_min``, and step from there to x0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...d2f_core import ADAPTIVE_METHODS, CountedVelocity, SolverStep, solve
from .. import host


@dataclass(frozen=True)
class OdeSampler:
    """A sampler function of the host that integrates the flow ODE.

    Attributes:
        method: one of ``d2f_core.METHODS``.
        rtol, atol: tolerances of the adaptive methods.
        max_nfe: most model evaluations, None for no limit.
        on_done: gets the number of evaluations when a run has ended.
    """

    method: str
    rtol: float = 1e-3
    atol: float = 1e-3
    max_nfe: int | None = None
    on_done: Callable[[int], None] | None = None

    def __call__(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        """Integrate x from level ``sigmas[0]`` to ``sigmas[-1]``, (B, *) -> (B, *)."""
        if len(sigmas) < 2:
            return x
        method, ts = self._plan(model, sigmas)
        denoiser = _Denoiser(model, extra_args or {})
        velocity = CountedVelocity(denoiser.velocity, self.max_nfe)
        with tqdm(total=len(sigmas) - 1, disable=disable) as bar:
            progress = _Progress(sigmas, denoiser, callback, bar)
            open_end = float(ts[-1]) == 1
            x = solve(velocity, x, ts, method, rtol=self.rtol, atol=self.atol, open_end=open_end, on_step=progress)
        host.LOGGER.info("%s: %d model evaluations", self.method, velocity.nfe)
        if self.on_done is not None:
            self.on_done(velocity.nfe)
        return x

    def _plan(self, model: Any, sigmas: Tensor) -> tuple[str, Tensor]:
        """Method and flow times: all levels for a fixed-step method, only the ends for an adaptive one."""
        stop = float(host.flow_sampling_in_call(model).sigma_min)
        levels = sigmas.detach().to("cpu", torch.float64)
        if levels[0] == 0:
            raise ValueError(
                "sampling starts at level 0, where the velocity is not defined; begin at the smallest level above 0"
            )
        if self.method not in ADAPTIVE_METHODS:
            return self.method, 1 - levels
        if levels[-1] > 0:
            return self.method, 1 - levels[[0, -1]]
        if levels[0] <= stop:
            return "euler", 1 - levels[[0, -1]]
        return self.method, 1 - torch.tensor([float(levels[0]), stop, 0.0], dtype=torch.float64)


class _Denoiser:
    """The host's denoiser as a velocity; keeps the last x0 for the preview."""

    def __init__(self, model: Any, extra_args: dict[str, Any]) -> None:
        self.model, self.extra_args = model, extra_args
        self.x = self.x0 = torch.empty(0)

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        host.throw_if_interrupted()
        s = float(1 - t)
        self.x, self.x0 = x, self.model(x, x.new_full((x.shape[0],), s, dtype=torch.float32), **self.extra_args)
        return (self.x0 - x) / s


@dataclass
class _Progress:
    """Turns steps of a solver into steps of the schedule, for the progress bars and the preview."""

    sigmas: Tensor
    denoiser: _Denoiser
    callback: Callable[[dict[str, Any]], None] | None
    bar: Any

    def __post_init__(self) -> None:
        self.levels = self.sigmas.tolist()

    def __call__(self, step: SolverStep) -> None:
        done = max(self._passed(1 - step.t), self.bar.n, 1)
        self.bar.update(done - self.bar.n)
        if self.callback is not None:
            s = self.sigmas[done - 1]
            x, x0 = self.denoiser.x, self.denoiser.x0
            self.callback({"x": x, "i": done - 1, "sigma": s, "sigma_hat": s, "denoised": x0})

    def _passed(self, s: float) -> int:
        """Levels after the first that a run at level s has reached."""
        falling = self.levels[0] > self.levels[-1]
        return sum((level - s if falling else s - level) > -1e-6 for level in self.levels[1:])
