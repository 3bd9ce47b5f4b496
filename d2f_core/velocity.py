"""The velocity field of a diffusion network (section 3 of the paper).

A network that was trained on ``(x_dm, timestep)`` becomes a flow matching model by a change of
coordinates, with no new parameters:

    timestep of t  ->  x_dm = x_fm / sqrt(t^2 + s^2)  ->  network  ->  x0, eps  ->  velocity = d x_fm / d t = x0 - eps

A network of data with the deviation d = ``sigma_data`` sees y0 = x0 / d, so that alpha : sigma = d t : s, and is shown
x_fm / sqrt(d^2 t^2 + s^2), of unit variance again. A native flow network is shown x_fm.

The table of the network spans t_min <= t <= t_max only (0.0640 to 0.9716 for the SD schedule), the flow all of
[0, 1]. Outside of the table the network is asked at its end row, and its answer is read with

    t < t_min:  alpha_T, sigma_T, since these are what it believes in, and velocity = (x0 - x_fm) / s
    t > t_max:  alpha, sigma of t, which lead to x0 = x_fm and a finite velocity at t = 1

Both agree with the inside at their border, so velocity and x0 are continuous and finite on [0, 1]. A native flow
network has no outside.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .continuous import Schedule
from .prediction import PREDICTIONS, Coefficients, Prediction
from .time_map import FlowTime, per_item


@dataclass(frozen=True, eq=False)
class FlowAlignment:
    """A network's schedule and prediction type, aligned with flow matching.

    Arguments ``t`` of the methods are flow times in [0, 1]: a number, a tensor of shape () or (B,), or a ``FlowTime``.
    Latents have shape (B, *) and keep their dtype and device; arithmetic on them is in float32 or better.
    """

    schedule: Schedule
    """Noise levels that the network was trained on."""
    prediction: str
    """What the network returns, one of ``PREDICTIONS``."""
    sigma_data: float = 1.0
    """Standard deviation of the data by which the network's input and its v are scaled."""
    _copies: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"unknown prediction type {self.prediction!r}; allowed are {', '.join(map(repr, PREDICTIONS))}: "
                "use the one that the network was trained with"
            )

    @property
    def row(self) -> Prediction:
        """The network's row in the table of predictions."""
        return PREDICTIONS[self.prediction]

    @cached_property
    def t_min(self) -> float:
        """Flow time of the noisiest level, the last timestep; 0.0640 for the SD schedule."""
        return float(self.flow_time(self.schedule.last))

    @cached_property
    def t_max(self) -> float:
        """Flow time of the cleanest level, the first timestep; 0.9716 for the SD schedule."""
        return float(self.flow_time(self.schedule.first))

    def timestep(self, t: FlowTime | Tensor | float) -> Tensor:
        """Fractional timestep to give the network at flow time t, clamped to [0, T - 1]; shape and dtype of t."""
        return self.schedule.timestep_at(FlowTime.of(t).log_sigma_ve())

    def flow_time(self, timestep: Tensor | float) -> Tensor:
        """``1 / (1 + sigma_ve)`` of a fractional timestep, in [t_min, t_max]; the inverse of ``timestep``."""
        return torch.sigmoid(-self.schedule.log_sigma_at(timestep))

    def to_diffusion(self, x_fm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """``x_dm = x_fm / sqrt(t^2 + s^2)``: the network's input, (B, *) -> (B, *)."""
        return (_precise(x_fm) / per_item(self._weights(t, x_fm).norm, x_fm)).to(x_fm.dtype)

    def to_flow(self, x_dm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """``x_fm = sqrt(t^2 + s^2) x_dm``: the inverse of ``to_diffusion``, (B, *) -> (B, *)."""
        return (_precise(x_dm) * per_item(self._weights(t, x_dm).norm, x_dm)).to(x_dm.dtype)

    def denoised(self, model_output: Tensor, x_fm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """x0 as the network predicts it: model_output (B, *), x_fm (B, *), t -> (B, *)."""
        return self._x0(*self._answer(model_output, x_fm, t)).to(x_fm.dtype)

    def velocity(self, model_output: Tensor, x_fm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """``x0 - eps`` as the network predicts it: model_output (B, *), x_fm (B, *), t -> (B, *)."""
        time = FlowTime.of(t, x_fm)
        answer = self._answer(model_output, x_fm, time)
        x0, end = self._x0(*answer), 0.0 if self.row.is_flow else self.t_min
        # s is clamped where it does not count: torch.where passes the NaN gradients of the other side on.
        chord = (x0 - _precise(x_fm)) / per_item(time.s.clamp(min=1 - end), x_fm)
        below = per_item(time.t, x_fm) < end
        return torch.where(below, chord, self.row.velocity(x0, *answer)).to(x_fm.dtype)

    def target(self, x0: Tensor, eps: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """What a network is trained to return for x0 and eps, (B, *), at t -> (B, *)."""
        alpha, sigma = self._weights(t, x0).coefficients().unbind(-1)
        c = Coefficients(per_item(alpha, x0), per_item(sigma, x0), self.sigma_data)
        return self.row.target(x0 / self.sigma_data, eps, c)

    def _weights(self, t: FlowTime | Tensor | float, latent: Tensor) -> FlowTime:
        """Weights of (scaled) data and noise in the network's input, up to their norm."""
        time = FlowTime.of(t, latent)
        return time.unscaled() if self.row.is_flow else time.scaled(self.sigma_data)

    def _x0(self, x: Tensor, output: Tensor, c: Coefficients) -> Tensor:
        y0 = self.row.x0(x, output, c)
        return y0 if self.sigma_data == 1 else self.sigma_data * y0

    def _answer(
        self, model_output: Tensor, x_fm: Tensor, t: FlowTime | Tensor | float
    ) -> tuple[Tensor, Tensor, Coefficients]:
        """What formulas of the prediction type take: input, output, and coefficients no noisier than the noisiest."""
        check_output(model_output, x_fm)
        weights = self._weights(t, x_fm)
        alpha, sigma = weights.coefficients().clamp(*self._ends(weights.s)).unbind(-1)
        least = (1 - self.t_max) / self.t_max / self.sigma_data
        c = Coefficients(per_item(alpha, x_fm), per_item(sigma, x_fm), self.sigma_data, least)
        return _precise(x_fm) / per_item(weights.norm, x_fm), _precise(model_output), c

    def _ends(self, like: Tensor) -> Tensor:
        """Least and greatest (alpha, sigma) at which an output is read, (2, 2), where a tensor is; made once."""
        key = (like.device, like.dtype)
        if key not in self._copies:
            noisiest = FlowTime(t=torch.tensor(self.t_min, dtype=torch.float64)).scaled(self.sigma_data)
            low, high = noisiest.coefficients().tolist() if not self.row.is_flow else (-torch.inf, torch.inf)
            self._copies[key] = torch.tensor([[low, -torch.inf], [torch.inf, high]], dtype=torch.float64).to(like)
        return self._copies[key]


def check_output(model_output: Tensor, x_fm: Tensor) -> None:
    """Raise a ValueError unless the network returned one value for each value of its state, both (B, *)."""
    if model_output.shape != x_fm.shape:
        raise ValueError(
            f"the model output has shape {tuple(model_output.shape)} but its state {tuple(x_fm.shape)}; the "
            "network must return one value for each value of x_fm"
        )


def _precise(latent: Tensor) -> Tensor:
    return latent.to(torch.promote_types(latent.dtype, torch.float32))
