"""Adaptive solvers: Dormand-Prince 5(4) and Bogacki-Shampine 3(2), which are torchdiffeq's.

Two methods of orders p and p - 1 share the stages of a step; the difference of their results estimates its error, e.
With ``tolerance = atol + rtol |x|`` a step is accepted when ``e <= tolerance``, and the next one is of length

    h (tolerance / e)^(1 / p), times a factor below 1

The whole batch takes the same steps, and the error of a step is that of its worst item.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .nfe import CountedVelocity
from .optional import install_command
from .time_map import exact_dtype

ADAPTIVE_METHODS: tuple[str, ...] = ("dopri5", "bosh3")
"""Adaptive solvers of order 5 and 3; they need the package torchdiffeq."""


class TorchdiffeqFlow:
    """The velocity as torchdiffeq wants it: state in float32 or better, callbacks as attributes."""

    def __init__(self, velocity: CountedVelocity, x: Tensor, times: list[float], report: Callable[[float], None]):
        self.velocity, self.x, self.times, self.report = velocity, x, times, report

    def integrate(self, method: str, rtol: float, atol: float) -> Tensor:
        """The state at the last of the times, (B, *), in the dtype of x."""
        if not self.x.numel():
            return self.x
        ts = torch.tensor(self.times, dtype=exact_dtype(self.x.device), device=self.x.device)
        # Every given time is a step, so that no stage lies beyond the last one.
        options: dict[str, Any] = {"dtype": ts.dtype, "norm": self._worst_item, "step_t": ts[1:]}
        options["first_step"] = 0.05 * (ts[-1] - ts[0]).abs()
        state = self.x.to(torch.promote_types(self.x.dtype, torch.float32))
        try:
            path = _odeint()(self, state, ts, rtol=rtol, atol=atol, method=method, options=options)
        except AssertionError as error:
            raise RuntimeError(
                f"the adaptive solver {method!r} gave up ({error}); loosen rtol and atol, or use a fixed-step solver"
            ) from error
        return path[-1].to(self.x.dtype)

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        # torchdiffeq rounds t to the dtype of the state, which may step over an end by one ulp.
        inside = t.detach().cpu().double().clamp(min(self.times), max(self.times))
        velocity = self.velocity(inside, state.to(self.x.dtype)).to(state.dtype)
        return self.velocity.check_finite(velocity, float(inside), float(inside))

    def callback_accept_step(self, t: Tensor, state: Tensor, dt: Tensor) -> None:
        """torchdiffeq calls this with the start of an accepted step; the time reported is its end."""
        self.report(float(t + dt if self.times[-1] > self.times[0] else t - dt))

    def _worst_item(self, error: Tensor) -> Tensor:
        """Largest root mean square over the items of a batch."""
        return error.reshape(self.x.shape[0], -1).square().mean(dim=1).max().sqrt()


def _odeint() -> Callable[..., Tensor]:
    try:
        from torchdiffeq import odeint
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the adaptive solvers {', '.join(ADAPTIVE_METHODS)} need the package torchdiffeq, which is not "
            f"installed; choose a fixed-step solver such as 'euler' or 'heun', or run {install_command('torchdiffeq')}"
        ) from error
    return odeint
