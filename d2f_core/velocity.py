"""The velocity field of a diffusion network (section 3 of the paper).

A network that was trained on ``(x_dm, timestep)`` becomes a flow matching model by a change of
coordinates, with no new parameters:

    timestep of t  ->  x_dm = x_fm / sqrt(t^2 + (1 - t)^2)  ->  network  ->  x0, eps
    velocity = d x_fm / d t = x0 - eps

The table of the network spans t_min <= t <= t_max only (0.0640 to 0.9716 for the SD schedule), the
flow all of [0, 1]. Outside of the table the network is asked at its end row and its answer is read
with that row's alpha and sigma, since these are what it believes in. The interpolant
``x_fm = t x0 + (1 - t) eps`` holds everywhere, so one of x0 and eps is read and the other follows:

    t <= t_max:  x0 as read                       velocity = (x0 - x_fm) / (1 - t)
    t >  t_max:  x0 = (x_fm - (1 - t) eps) / t    velocity = (x_fm - eps) / t       eps as read

Inside the table both lines say the same. So velocity and x0 are continuous, and finite at t = 0 and
t = 1, where x0 = x_fm. Everything is linear in state and output, so all this is arithmetic on a few
numbers a sample, done in float64, and the latents are touched by one multiply-add.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .coordinate import Number, as_coordinate, as_tensor, choose, clamp, per_item
from .prediction import PREDICTIONS, Reading, check_prediction
from .schedule import NoiseSchedule
from .time_map import flow_time_of_log_sigma, interpolant_norm, log_sigma_of_flow_time, vp_coefficients


@dataclass(frozen=True, eq=False)
class FlowAlignment:
    """A diffusion network's schedule and prediction type, aligned with flow matching.

    Arguments ``t`` of the methods are flow times in [0, 1]: a number, a tensor of shape () or one of
    shape (B,). Latents have shape (B, *) and keep their dtype and device; arithmetic on them is in
    float32 or better. Values of t are checked on the CPU only, where that needs no synchronisation.

    Attributes:
        schedule: noise levels that the network was trained on.
        prediction: what the network returns, one of ``PREDICTIONS``: "eps", "v" or "x0".
    """

    schedule: NoiseSchedule
    prediction: str

    def __post_init__(self) -> None:
        check_prediction(self.prediction)

    @cached_property
    def t_min(self) -> float:
        """Flow time of the noisiest row, timestep T - 1; 0.0640 for the SD schedule."""
        return float(flow_time_of_log_sigma(float(self.schedule.log_sigma[-1])))

    @cached_property
    def t_max(self) -> float:
        """Flow time of the cleanest row, timestep 0; 0.9716 for the SD schedule."""
        return float(flow_time_of_log_sigma(float(self.schedule.log_sigma[0])))

    def timestep(self, t: Tensor | float) -> Tensor:
        """Fractional timestep to give the network at flow time t; clamped to [0, T - 1]. Shape of t, float64."""
        return as_tensor(self.schedule.timestep_at(log_sigma_of_flow_time(checked_flow_time(t))))

    def flow_time(self, timestep: Tensor | float) -> Tensor:
        """Flow time of a fractional timestep, clamped to [t_min, t_max]; the inverse of ``timestep``."""
        return as_tensor(flow_time_of_log_sigma(self.schedule.log_sigma_at(as_coordinate(timestep))))

    def to_diffusion(self, x_fm: Tensor, t: Tensor | float) -> Tensor:
        """``x_dm = x_fm / sqrt(t^2 + (1 - t)^2)``: the network's input, (B, *) -> (B, *)."""
        return _scale(x_fm, 1 / interpolant_norm(checked_flow_time(t, x_fm)))

    def to_flow(self, x_dm: Tensor, t: Tensor | float) -> Tensor:
        """``x_fm = sqrt(t^2 + (1 - t)^2) x_dm``: the inverse of ``to_diffusion``, (B, *) -> (B, *)."""
        return _scale(x_dm, interpolant_norm(checked_flow_time(t, x_dm)))

    def denoised(self, model_output: Tensor, x_fm: Tensor, t: Tensor | float) -> Tensor:
        """x0 as the network predicts it: model_output (B, *), x_fm (B, *), t -> (B, *)."""
        t = checked_flow_time(t, x_fm)
        r, s, above = self._reading(t), 1 - t, t > self.t_max
        # Clamped to the side where it counts: torch.where passes NaN gradients of the other side on.
        t_above = clamp(t, low=self.t_max)
        state = choose(above, (1 - s * r.eps_state) / t_above, r.x0_state)
        output = choose(above, -s * r.eps_output / t_above, r.x0_output)
        return combine(state, x_fm, output, model_output)

    def velocity(self, model_output: Tensor, x_fm: Tensor, t: Tensor | float) -> Tensor:
        """``x0 - eps`` as the network predicts it: model_output (B, *), x_fm (B, *), t -> (B, *)."""
        t = checked_flow_time(t, x_fm)
        r, above = self._reading(t), t > self.t_max
        t_above, s_inside = clamp(t, low=self.t_max), clamp(1 - t, low=1 - self.t_max)
        state = choose(above, (1 - r.eps_state) / t_above, (r.x0_state - 1) / s_inside)
        output = choose(above, -r.eps_output / t_above, r.x0_output / s_inside)
        return combine(state, x_fm, output, model_output)

    def _reading(self, t: Number) -> Reading:
        """The row of the table nearest to t, for ``x_fm`` instead of ``x_dm``."""
        row = PREDICTIONS[self.prediction].read(*vp_coefficients(clamp(t, self.t_min, self.t_max)))
        norm = interpolant_norm(t)
        return row._replace(x0_state=row.x0_state / norm, eps_state=row.eps_state / norm)


def checked_flow_time(t: Tensor | float, latent: Tensor | None = None) -> Number:
    """t as a checked coordinate, on the latent's device if one is given."""
    if latent is not None and isinstance(t, Tensor):
        _check_shape(t, latent)
    t = as_coordinate(t, None if latent is None else latent.device)
    if not isinstance(t, Tensor):
        low = high = t
    elif t.device.type == "cpu" and t.numel():
        low, high = (end.item() for end in torch.aminmax(t))
    else:
        return t
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"flow time t must be in [0, 1], got values from {low:.6g} to {high:.6g}; 0 is noise and 1 "
            "is data (for ComfyUI's flow sigma s use t = 1 - s)"
        )
    return t


def _check_shape(t: Tensor, latent: Tensor) -> None:
    if not (t.ndim == 0 or (t.ndim == 1 and len(t) in (1, _batch(latent)))):
        raise ValueError(
            f"t has shape {tuple(t.shape)} and the latents {tuple(latent.shape)}; t must be a number or hold "
            "one flow time for each item of the batch"
        )


def _batch(latent: Tensor) -> int:
    if latent.ndim < 2:
        raise ValueError(
            f"latents have shape {tuple(latent.shape)}; they need a batch dimension and at least one more, (B, *)"
        )
    return latent.shape[0]


def _scale(latent: Tensor, weight: Number) -> Tensor:
    return (_precise(latent) * per_item(weight, latent)).to(latent.dtype)


def combine(state_weight: Number, state: Tensor, output_weight: Number, model_output: Tensor) -> Tensor:
    """``state_weight * state + output_weight * model_output`` in the state's dtype."""
    if model_output.shape != state.shape:
        raise ValueError(
            f"the model output has shape {tuple(model_output.shape)} but its state {tuple(state.shape)}; the "
            "network must return one value for each value of x_fm"
        )
    read_off_state = per_item(state_weight, state) * _precise(state)
    return (read_off_state + per_item(output_weight, state) * _precise(model_output)).to(state.dtype)


def _precise(latent: Tensor) -> Tensor:
    return latent.to(torch.promote_types(latent.dtype, torch.float32))
