"""The sampling loop: ComfyUI's denoiser in, d2f_core's ODE solvers around it.

The host hands a sampler function ``denoiser(x_fm, sigma) -> x0``, with CFG, masks and hooks inside. As in k-diffusion,
it is integrated in sigma (s = 1 - t):

    d x_fm / d sigma = (x_fm - x0) / sigma

which does not exist at sigma = 0, so a run that ends there ends open (``d2f_core.solve``). Adaptive solvers stop
at the smallest sigma that the network knows, ``sigma_min``, and step from there to x0.
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
        """Integrate x from ``sigmas[0]`` to ``sigmas[-1]``, (B, *) -> (B, *)."""
        if len(sigmas) < 2:
            return x
        method, stops = self._plan(model, sigmas)
        denoiser = _Denoiser(model, extra_args or {})
        slope = CountedVelocity(denoiser.slope, self.max_nfe, variable="sigma")
        with tqdm(total=len(sigmas) - 1, disable=disable) as bar:
            progress = _Progress(sigmas, denoiser, callback, bar)
            open_end = float(stops[-1]) == 0
            x = solve(slope, x, stops, method, rtol=self.rtol, atol=self.atol, open_end=open_end, on_step=progress)
        host.LOGGER.info("%s: %d model evaluations", self.method, slope.nfe)
        if self.on_done is not None:
            self.on_done(slope.nfe)
        return x

    def _plan(self, model: Any, sigmas: Tensor) -> tuple[str, Tensor]:
        """Method and stops of the solver, float64 on the CPU: all sigmas for a fixed-step method, else the ends."""
        smallest = float(host.flow_sampling_in_call(model).sigma_min)
        stops = sigmas.detach().cpu().double()
        if stops[0] == 0:
            raise ValueError(
                "sampling starts at sigma 0, where the velocity is not defined; begin at the smallest sigma above 0"
            )
        _check_levels(stops)
        if self.method not in ADAPTIVE_METHODS:
            return self.method, stops
        ends = stops[[0, -1]]
        if ends[-1] > 0:
            return self.method, ends
        if ends[0] <= smallest:
            return "euler", ends
        return self.method, torch.tensor([float(ends[0]), smallest, 0.0], dtype=torch.float64)


def _check_levels(sigmas: Tensor) -> None:
    """Raise ValueError unless sigmas lie in [0, 1] and fall, or rise, at every step."""
    steps, shown = sigmas.diff(), host.listed(sigmas)
    if not ((sigmas >= 0) & (sigmas <= 1 + 1e-6)).all():
        raise ValueError(
            f"the sigmas of a flow matching model lie between 0 and 1, but these are {shown}; take them from 'Flow "
            "Scheduler (Diff2Flow)', or from a scheduler that is connected to this model"
        )
    if not ((steps < 0).all() or (steps > 0).all()):
        raise ValueError(
            f"ODE solvers need sigmas that fall at every step (or rise at every step, to invert), but got {shown}; "
            "choose another scheduler, or fewer steps"
        )


class _Denoiser:
    """The host's denoiser as a slope over sigma; keeps the last x0 for the preview."""

    def __init__(self, model: Any, extra_args: dict[str, Any]) -> None:
        self.model, self.extra_args = model, extra_args
        self.x = self.x0 = torch.empty(0)

    def slope(self, sigma: Tensor, x: Tensor) -> Tensor:
        """``d x_fm / d sigma``, (B, *), at sigma, shape ()."""
        host.throw_if_interrupted()
        s = float(sigma)
        self.x, self.x0 = x, self.model(x, x.new_full((x.shape[0],), s, dtype=torch.float32), **self.extra_args)
        return (x - self.x0) / s


@dataclass
class _Progress:
    """Turns steps of a solver into steps of the schedule, for the progress bars and the preview."""

    sigmas: Tensor
    denoiser: _Denoiser
    callback: Callable[[dict[str, Any]], None] | None
    bar: Any

    def __post_init__(self) -> None:
        self.stops = self.sigmas.tolist()

    def __call__(self, step: SolverStep) -> None:
        done = max(self._passed(step.time), self.bar.n, 1)
        self.bar.update(done - self.bar.n)
        if self.callback is not None:
            s = self.sigmas[done - 1]
            x, x0 = self.denoiser.x, self.denoiser.x0
            self.callback({"x": x, "i": done - 1, "sigma": s, "sigma_hat": s, "denoised": x0})

    def _passed(self, sigma: float) -> int:
        """How many of the sigmas after the first a run has reached that is at ``sigma``."""
        falling = self.stops[0] > self.stops[-1]
        return sum((stop - sigma if falling else sigma - stop) > -1e-6 for stop in self.stops[1:])
