"""The velocity field of a diffusion network (section 3 of the paper).

A network that was trained on ``(x_dm, timestep)`` becomes a flow matching model by a change of
coordinates, with no new parameters:

    timestep of t  ->  x_dm = x_fm / sqrt(t^2 + s^2)  ->  network  ->  x0, eps  ->  velocity = d x_fm / d t = x0 - eps

The table of the network spans t_min <= t <= t_max only (0.0640 to 0.9716 for the SD schedule), the flow all of
[0, 1]. Outside of the table the network is asked at its end row, and its answer is read with

    t < t_min:  alpha_T, sigma_T, since these are what it believes in, and velocity = (x0 - x_fm) / s
    t > t_max:  alpha, sigma of t, which lead to x0 = x_fm and a finite velocity at t = 1

Both agree with the inside at their border, so velocity and x0 are continuous and finite on [0, 1].
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .prediction import PREDICTIONS, Coefficients
from .schedule import NoiseSchedule
from .time_map import FlowTime, per_item


@dataclass(frozen=True, eq=False)
class FlowAlignment:
    """A diffusion network's schedule and prediction type, aligned with flow matching.

    Arguments ``t`` of the methods are flow times in [0, 1]: a number, a tensor of shape () or (B,), or a ``FlowTime``.
    Latents have shape (B, *) and keep their dtype and device; arithmetic on them is in float32 or better.
    """

    schedule: NoiseSchedule
    """Noise levels that the network was trained on."""
    prediction: str
    """What the network returns, one of ``PREDICTIONS``: "eps", "v" or "x0"."""

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"unknown prediction type {self.prediction!r}; allowed are {', '.join(map(repr, PREDICTIONS))}: "
                "use the one that the network was trained with"
            )

    @cached_property
    def t_min(self) -> float:
        """Flow time of the noisiest row, timestep T - 1; 0.0640 for the SD schedule."""
        return float(self.flow_time(len(self.schedule) - 1))

    @cached_property
    def t_max(self) -> float:
        """Flow time of the cleanest row, timestep 0; 0.9716 for the SD schedule."""
        return float(self.flow_time(0))

    def timestep(self, t: FlowTime | Tensor | float) -> Tensor:
        """Fractional timestep to give the network at flow time t, clamped to [0, T - 1]; shape and dtype of t."""
        return self.schedule.timestep_at(FlowTime.of(t).log_sigma_ve())

    def flow_time(self, timestep: Tensor | float) -> Tensor:
        """``1 / (1 + sigma_ve)`` of a fractional timestep, in [t_min, t_max]; the inverse of ``timestep``."""
        return torch.sigmoid(-self.schedule.log_sigma_at(timestep))

    def to_diffusion(self, x_fm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """``x_dm = x_fm / sqrt(t^2 + s^2)``: the network's input, (B, *) -> (B, *)."""
        return (_precise(x_fm) / per_item(FlowTime.of(t, x_fm).norm, x_fm)).to(x_fm.dtype)

    def to_flow(self, x_dm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """``x_fm = sqrt(t^2 + s^2) x_dm``: the inverse of ``to_diffusion``, (B, *) -> (B, *)."""
        return (_precise(x_dm) * per_item(FlowTime.of(t, x_dm).norm, x_dm)).to(x_dm.dtype)

    def denoised(self, model_output: Tensor, x_fm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """x0 as the network predicts it: model_output (B, *), x_fm (B, *), t -> (B, *)."""
        x_dm, output, c = self._answer(model_output, x_fm, FlowTime.of(t, x_fm))
        return PREDICTIONS[self.prediction].x0(x_dm, output, c).to(x_fm.dtype)

    def velocity(self, model_output: Tensor, x_fm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """``x0 - eps`` as the network predicts it: model_output (B, *), x_fm (B, *), t -> (B, *)."""
        time, prediction = FlowTime.of(t, x_fm), PREDICTIONS[self.prediction]
        answer = self._answer(model_output, x_fm, time)
        x0 = prediction.x0(*answer)
        # s is clamped where it does not count: torch.where passes the NaN gradients of the other side on.
        chord = (x0 - _precise(x_fm)) / per_item(time.s.clamp(min=1 - self.t_min), x_fm)
        below = per_item(time.t, x_fm) < self.t_min
        return torch.where(below, chord, x0 - prediction.eps(*answer)).to(x_fm.dtype)

    def _answer(self, model_output: Tensor, x_fm: Tensor, time: FlowTime) -> tuple[Tensor, Tensor, Coefficients]:
        """What formulas of the prediction type take: x_dm, the output, and coefficients no noisier than row T - 1."""
        check_output(model_output, x_fm)
        norm, (low, high) = per_item(time.norm, x_fm), self.schedule.tables(time.s).range
        alpha, sigma = time.vp_coefficients().clamp(low, high).unbind(-1)
        c = Coefficients(per_item(alpha, x_fm), per_item(sigma, x_fm), (1 - self.t_max) / self.t_max)
        return _precise(x_fm) / norm, _precise(model_output), c


def check_output(model_output: Tensor, x_fm: Tensor) -> None:
    """Raise a ValueError unless the network returned one value for each value of its state, both (B, *)."""
    if model_output.shape != x_fm.shape:
        raise ValueError(
            f"the model output has shape {tuple(model_output.shape)} but its state {tuple(x_fm.shape)}; the "
            "network must return one value for each value of x_fm"
        )


def _precise(latent: Tensor) -> Tensor:
    return latent.to(torch.promote_types(latent.dtype, torch.float32))
