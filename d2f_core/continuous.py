"""Noise schedules that are formulas and no table: continuous diffusion, and native flow matching.

    log:     timestep = log(sigma_ve) / 4             EDM (Karras et al., arXiv 2206.00364)
    arctan:  timestep = (2 / pi) arctan(sigma_ve)     continuous v: the angle of alpha and sigma, from 0 to 1
    flow:    timestep = s multiplier                  sigma_ve = s / t

They have what a ``NoiseSchedule`` has, which is all that ``Schedule`` asks for. A diffusion network was trained between
two values of sigma_ve, outside of which its timestep ends; one of flow matching on all of s, from 0 to 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .time_map import exact

ROWS = 1000


class Schedule(Protocol):
    """The noise levels that a network was trained on; timesteps are of any shape."""

    @property
    def first(self) -> float:
        """Timestep of the cleanest level."""

    @property
    def last(self) -> float:
        """Timestep of the noisiest level."""

    def __len__(self) -> int:
        """Number of levels that are listed for schedulers, from cleanest to noisiest."""

    def row(self, index: Tensor) -> Tensor:
        """Timestep of a level of that list, at a fractional index from 0 to len - 1."""

    def drawn(self, u: Tensor) -> Tensor:
        """Timesteps as the network's training draws them, for uniform numbers u in [0, 1)."""

    def log_sigma_at(self, timestep: Tensor | float) -> Tensor:
        """``log sigma_ve`` at a timestep; outside of [first, last] the end counts."""

    def timestep_at(self, log_sigma: Tensor) -> Tensor:
        """The timestep in [first, last] with that finite ``log sigma_ve``: the inverse."""


class TimeScale(NamedTuple):
    """How a continuous diffusion network counts noise: log sigma_ve -> timestep, and back."""

    timestep: Callable[[Tensor], Tensor]
    log_sigma: Callable[[Tensor], Tensor]


TIME_SCALES: Mapping[str, TimeScale] = MappingProxyType(
    {
        "log": TimeScale(lambda log_sigma: log_sigma / 4, lambda timestep: 4 * timestep),
        "arctan": TimeScale(
            lambda log_sigma: log_sigma.exp().atan() * (2 / math.pi),
            lambda timestep: (timestep * (math.pi / 2)).tan().log(),
        ),
    }
)


@dataclass(frozen=True)
class ContinuousSchedule:
    """Schedule of a diffusion network that takes any noise level between two ends.

    Attributes:
        scale: one of ``TIME_SCALES``.
        sigma_min, sigma_max: least and greatest sigma_ve.
    """

    scale: str
    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"a continuous noise schedule from sigma {self.sigma_min:g} to {self.sigma_max:g} is not possible; "
                "sigma_min must be above 0 and below sigma_max"
            )

    @property
    def first(self) -> float:
        """Timestep of sigma_min."""
        return float(self._timestep(exact(math.log(self.sigma_min))))

    @property
    def last(self) -> float:
        """Timestep of sigma_max."""
        return float(self._timestep(exact(math.log(self.sigma_max))))

    def __len__(self) -> int:
        return ROWS

    def row(self, index: Tensor) -> Tensor:
        """Timestep of a level of the list, whose ``log sigma_ve`` are evenly spaced."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return self._timestep(low + (high - low) * exact(index) / (ROWS - 1))

    def drawn(self, u: Tensor) -> Tensor:
        """Uniform timesteps."""
        return self.first + (self.last - self.first) * u

    def log_sigma_at(self, timestep: Tensor | float) -> Tensor:
        """``log sigma_ve`` at a timestep, any shape."""
        return TIME_SCALES[self.scale].log_sigma(exact(timestep).clamp(self.first, self.last))

    def timestep_at(self, log_sigma: Tensor) -> Tensor:
        """The timestep of a ``log sigma_ve``, any shape."""
        return self._timestep(log_sigma.clamp(math.log(self.sigma_min), math.log(self.sigma_max)))

    def _timestep(self, log_sigma: Tensor) -> Tensor:
        return TIME_SCALES[self.scale].timestep(log_sigma)


@dataclass(frozen=True)
class FlowSchedule:
    """Schedule of a native flow matching network, on all of [0, 1].

    Attributes:
        multiplier: timestep of pure noise.
    """

    multiplier: float
    first = 0.0

    @property
    def last(self) -> float:
        """Timestep of pure noise."""
        return self.multiplier

    def __len__(self) -> int:
        return ROWS

    def row(self, index: Tensor) -> Tensor:
        """Timestep of a level of the list, s = 1 / 1000 to 1."""
        return (exact(index) + 1) / ROWS * self.multiplier

    def drawn(self, u: Tensor) -> Tensor:
        """Uniform timesteps."""
        return u * self.multiplier

    def log_sigma_at(self, timestep: Tensor | float) -> Tensor:
        """``log(s / t)`` at a timestep, any shape; infinite at both ends."""
        return (exact(timestep) / self.multiplier).clamp(0, 1).logit()

    def timestep_at(self, log_sigma: Tensor) -> Tensor:
        """The timestep of a ``log sigma_ve``, any shape."""
        return torch.sigmoid(log_sigma) * self.multiplier
