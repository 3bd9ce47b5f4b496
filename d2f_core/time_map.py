"""From diffusion time to flow time: the same noise level seen from two sides.

A variance preserving sample and a flow matching sample of the same x0 and eps differ by a factor
only (eq. 7 and 8 of the paper), because their ratio of signal to noise is the same when

    sigma_ve = sigma / alpha = s / t        t = alpha / (alpha + sigma) = 1 / (1 + sigma_ve)        s = 1 - t

    x_fm = t x0 + s eps = x_dm / (alpha + sigma)
    x_dm = alpha x0 + sigma eps = x_fm / sqrt(t^2 + s^2)

since alpha + sigma = 1 / sqrt(t^2 + s^2) for alpha^2 + sigma^2 = 1. Coefficients have the dtype and device of the
time that they are computed from: float64 on the CPU is exact, float32 on a device is cheap.
"""

import torch
from torch import Tensor


class FlowTime:
    """A flow time from both sides, t and s = 1 - t; the side that is given stays as it is, the other is derived once.

    Args:
        t: flow time, () or (B,), float32 or float64.
        s: ComfyUI's flow sigma, instead of t.
    """

    def __init__(self, t: Tensor | None = None, s: Tensor | None = None) -> None:
        self._t, self._s = t, s

    @classmethod
    def of(cls, t: "FlowTime | Tensor | float", latent: Tensor | None = None) -> "FlowTime":
        """The flow time that a caller gave: one, a number, or a tensor of shape () or (B,); checked for the latent.

        Raises:
            ValueError: its shape does not fit ``latent`` (B, *), or it leaves [0, 1]. Values on a device are not
                looked at, as that would wait for the device.
        """
        time = t if isinstance(t, cls) else cls(t=_in_range(_at_least_float32(t)))
        if latent is not None:
            _check_shape(time, latent)
        return time

    @property
    def t(self) -> Tensor:
        """Flow time, 0 = noise, 1 = data."""
        if self._t is None:
            self._t = 1 - self.s
        return self._t

    @property
    def s(self) -> Tensor:
        """``1 - t``, the weight of the noise."""
        if self._s is None:
            self._s = 1 - self.t
        return self._s

    @property
    def shape(self) -> torch.Size:
        """() or (B,)."""
        return (self.s if self._t is None else self._t).shape

    def norm(self) -> Tensor:
        """``sqrt(t^2 + s^2)``: the factor from x_dm to x_fm, between 0.707 and 1."""
        return torch.hypot(self.t, self.s)

    def vp_coefficients(self) -> Tensor:
        """``alpha = t / sqrt(t^2 + s^2)`` and ``sigma = s / sqrt(t^2 + s^2)``, (*, 2)."""
        return torch.stack([self.t, self.s], dim=-1) / self.norm().unsqueeze(-1)

    def log_sigma_ve(self) -> Tensor:
        """``log(s / t)``; s is moved to the next number inside of (0, 1), so that both ends are finite."""
        return torch.logit(self.s, eps=torch.finfo(self.s.dtype).eps)


def flow_time_of_log_sigma(log_sigma: Tensor) -> Tensor:
    """``t = 1 / (1 + sigma_ve)`` of ``log sigma_ve``, any shape."""
    return torch.sigmoid(-log_sigma)


def per_item(weight: Tensor, latent: Tensor) -> Tensor:
    """A weight, () or (B,), ready to multiply latents (B, *): on their device, in float32 or better."""
    weight = weight.to(latent.device, torch.promote_types(latent.dtype, torch.float32))
    return weight.reshape(-1, *(1,) * (latent.ndim - 1))


def exact_dtype(device: torch.device) -> torch.dtype:
    """The dtype of tables, grids and times that are made on a device: float64 on the CPU, else float32."""
    return torch.float64 if device.type == "cpu" else torch.float32  # not every device has float64


def exact(values: Tensor | float) -> Tensor:
    """Numbers, or a tensor where it is, in the most exact dtype there."""
    values = torch.as_tensor(values)
    return values.to(exact_dtype(values.device))


def _at_least_float32(value: Tensor | float) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.tensor(value, dtype=torch.float64)
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _in_range(t: Tensor) -> Tensor:
    if t.device.type == "cpu" and t.numel():
        low, high = (end.item() for end in torch.aminmax(t))
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"flow time t must be in [0, 1], got values from {low:.6g} to {high:.6g}; 0 is noise and 1 "
                "is data (for ComfyUI's flow sigma s use t = 1 - s)"
            )
    return t


def _check_shape(time: FlowTime, latent: Tensor) -> None:
    if latent.ndim < 2:
        raise ValueError(
            f"latents have shape {tuple(latent.shape)}; they need a batch dimension and at least one more, (B, *)"
        )
    if time.shape not in ((), (1,), latent.shape[:1]):
        raise ValueError(
            f"t has shape {tuple(time.shape)} and the latents {tuple(latent.shape)}; t must be a number or hold "
            "one flow time for each item of the batch"
        )
