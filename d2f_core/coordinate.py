"""Coordinates: flow times, timesteps and coefficients, as Python floats or as float64 tensors.

A batch at one flow time needs one number, a batch in training one an item. Both go through the same formulas:
``Number`` is a float or a tensor of shape (B,), and the functions here are those that Python and torch spell
differently. Floats matter: around a call of the network they cost nothing, tensors an operation each.
"""

import math

import torch
from torch import Tensor

Number = float | Tensor


def coordinate_dtype(device: torch.device) -> torch.dtype:
    """The dtype of times and coefficients: float64, except on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def as_coordinate(value: Tensor | float, device: torch.device | None = None) -> Number:
    """A float of a number or a scalar tensor on the CPU; else a tensor of coordinates, on ``device`` if given."""
    if not isinstance(value, Tensor):
        return float(value)
    if value.ndim == 0 and value.device.type == "cpu":
        return value.item()
    device = device or value.device
    return value.to(device, coordinate_dtype(device))


def as_tensor(value: Number) -> Tensor:
    """The tensor of a Number: shape () of a float."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def hypot(a: Number, b: Number) -> Number:
    """``sqrt(a^2 + b^2)``."""
    return torch.hypot(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else math.hypot(a, b)


def clamp(value: Number, low: float = -math.inf, high: float = math.inf) -> Number:
    """``value`` moved into [low, high]."""
    return value.clamp(low, high) if isinstance(value, Tensor) else min(max(value, low), high)


def choose(condition: bool | Tensor, yes: Number, no: Number) -> Number:
    """``yes`` where the condition holds, else ``no``."""
    if isinstance(condition, Tensor):
        return torch.where(condition, yes, no)
    return yes if condition else no


def log(value: Number) -> Number:
    """Natural logarithm; -inf at 0."""
    if isinstance(value, Tensor):
        return torch.log(value)
    return math.log(value) if value > 0 else -math.inf


def sigmoid(value: Number) -> Number:
    """``1 / (1 + exp(-value))``."""
    if isinstance(value, Tensor):
        return torch.sigmoid(value)
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def per_item(weight: Number, latent: Tensor) -> Number:
    """A weight of each item made ready to multiply latents (B, *), in float32 or better; a float as it is."""
    if not isinstance(weight, Tensor):
        return weight
    weight = weight.to(torch.promote_types(latent.dtype, torch.float32))
    return weight if weight.ndim == 0 else weight.reshape(-1, *(1,) * (latent.ndim - 1))
