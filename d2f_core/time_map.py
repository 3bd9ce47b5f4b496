"""From diffusion time to flow time: the same noise level seen from two sides.

A variance preserving sample and a flow matching sample of the same x0 and eps differ by a factor only (eq. 7 and 8 of
the paper), because their ratio of signal to noise is the same when

    sigma_ve = sigma / alpha = s / t        t = alpha / (alpha + sigma) = 1 / (1 + sigma_ve)        s = 1 - t

    x_fm = t x0 + s eps = x_dm / (alpha + sigma)        x_dm = alpha x0 + sigma eps = x_fm / sqrt(t^2 + s^2)

Coefficients have the dtype and device of their time: float64 on the CPU is exact, float32 on a device is cheap.
"""

from functools import cached_property

import torch
from torch import Tensor


class FlowTime:
    """A flow time from both sides, t and s = 1 - t; the side that is given stays as it is, the other is derived once.

    Args:
        t: flow time, () or (B,), float32 or float64.
        s: ComfyUI's flow sigma, instead of t.
    """

    def __init__(self, t: Tensor | None = None, s: Tensor | None = None) -> None:
        if t is not None:
            self.t = t
        if s is not None:
            self.s = s

    @classmethod
    def of(cls, t: "FlowTime | Tensor | float", latent: Tensor | None = None) -> "FlowTime":
        """What a caller gave as flow time: a number or a tensor of shape () or (B,).

        Raises:
            ValueError: its shape does not fit ``latent`` (B, *), or it leaves [0, 1] (looked at on the CPU only).
        """
        time = t if isinstance(t, FlowTime) else cls(t=_in_range(t))
        if latent is not None:
            _check_shape(time, latent)
        return time

    @cached_property
    def t(self) -> Tensor:
        """Flow time, the weight of the data."""
        return 1 - self.s

    @cached_property
    def s(self) -> Tensor:
        """The weight of the noise."""
        return 1 - self.t

    @cached_property
    def norm(self) -> Tensor:
        """``sqrt(t^2 + s^2)``: the factor from x_dm to x_fm, between 0.707 and 1."""
        return torch.hypot(self.t, self.s)

    def coefficients(self) -> Tensor:
        """``alpha = t / sqrt(t^2 + s^2)`` and ``sigma = s / sqrt(t^2 + s^2)``, (*, 2)."""
        return torch.stack([self.t, self.s], dim=-1) / self.norm.unsqueeze(-1)

    def scaled(self, sigma_data: float) -> "FlowTime":
        """The weights of x0 / sigma_data and eps; they no longer add up to 1."""
        return self if sigma_data == 1 else FlowTime(self.t * sigma_data, self.s)

    def unscaled(self) -> "FlowTime":
        """The same weights with the norm 1: those of a network that is shown x_fm itself."""
        weights = FlowTime(self.t, self.s)
        weights.norm = torch.ones_like(self.s)
        return weights

    def log_sigma_ve(self) -> Tensor:
        """``log(s / t)``; s is moved to the next number inside of (0, 1), so that both ends are finite."""
        return torch.logit(self.s, eps=torch.finfo(self.s.dtype).eps)


def per_item(weight: Tensor, latent: Tensor) -> Tensor:
    """A weight, () or (B,), as (B, 1, ..) where latents (B, *) are, float32 or better; CUDA copies without a wait."""
    weight = weight.to(latent.device, torch.promote_types(latent.dtype, torch.float32), non_blocking=latent.is_cuda)
    return weight.reshape(-1, *(1,) * (latent.ndim - 1))


def exact_dtype(device: torch.device) -> torch.dtype:
    """Of tables, grids and times that are made on a device: float64 on the CPU, else float32, as not all have it."""
    return torch.float64 if device.type == "cpu" else torch.float32


def exact(values: Tensor | float) -> Tensor:
    """A number, or a tensor where it is, in the most exact dtype there."""
    if not isinstance(values, Tensor):
        return torch.tensor(values, dtype=torch.float64)
    return values.to(exact_dtype(values.device))


def _in_range(value: Tensor | float) -> Tensor:
    t = value if isinstance(value, Tensor) else exact(value)
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    if t.device.type == "cpu" and t.numel():
        low, high = (end.item() for end in torch.aminmax(t))
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"flow time t must be in [0, 1], got {low:.6g} to {high:.6g}; 0 is noise, 1 is data (1 - ComfyUI's s)"
            )
    return t


def _check_shape(time: FlowTime, latent: Tensor) -> None:
    if latent.ndim < 2:
        raise ValueError(
            f"latents have shape {tuple(latent.shape)}; they need a batch dimension and at least one more, (B, *)"
        )
    if time.s.shape not in ((), (1,), latent.shape[:1]):
        raise ValueError(
            f"t has shape {tuple(time.s.shape)} and the latents {tuple(latent.shape)}; t must be a number or hold "
            "one flow time for each item of the batch"
        )
