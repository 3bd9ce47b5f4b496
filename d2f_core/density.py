"""At which flow times a network is trained: densities of t, each given by its quantile function

    t = F^-1(u),  u ~ U(0, 1)

    uniform        u
    logit_normal   sigmoid(mean + std Phi^-1(u))                     Esser et al., arXiv 2403.03206
    u_shaped       p(t) ~ cosh(a (2 t - 1)), dense at both ends       for reflow, Lee et al., arXiv 2405.20320
    timestep       the flow time of a timestep as the network's own training draws it
    few_steps      0 or 1/2, u < 1/2 or not: where samplers of one and of two equal steps call the network

A path in windows has the first three within each window, as each is a flow of its own there. In a range [low, high]
of t, each is what it is on [0, 1], given that t lies in the range: u is uniform over those u whose t does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from .velocity import FlowAlignment
from .windows import within_windows

# Steepness of the U-shaped density: its ends are cosh(4), 27 times, as likely as its middle.
U_STEEPNESS = 4.0


@dataclass(frozen=True)
class TimeDensity:
    """How flow times are drawn.

    Attributes:
        name: one of ``DENSITIES``: "uniform" in t; "logit_normal"; "u_shaped", dense at both ends (for reflow,
            arXiv 2405.20320); "timestep", uniform over the network's timesteps, as diffusion models are trained;
            "few_steps", only where samplers of one and two steps call the network.
        mean, std: of logit(t), for "logit_normal".
        low, high: least and largest flow time that is drawn.
    """

    name: str = "uniform"
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_name("density", self.name, DENSITIES)
        if not self.std > 0:
            raise ValueError(f"the std of a density must be above 0, got {self.std}; 1 is usual")
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"t_low is {self.low:g} and t_high is {self.high:g}, but flow times from 0 (noise) to 1 (data) are "
                "trained; set t_low below t_high, 0 and 1 for all of them"
            )
        if self.has_range and not DENSITIES[self.name].ranged:
            raise ValueError(
                f"t_low and t_high leave out some flow times, but the density {self.name} is about single ones; set "
                "them to 0 and 1, or choose another density"
            )

    @property
    def has_range(self) -> bool:
        """Whether some flow times are left out."""
        return (self.low, self.high) != (0, 1)

    def sample(self, count: int, alignment: FlowAlignment, generator: torch.Generator, windows: int = 1) -> Tensor:
        """``count`` flow times in [0, 1], float64, on the CPU, from a private generator.

        ``alignment`` is that of the objective's coordinates: where a timestep lies in flow time depends on them. A
        density of flow times is meant within each of ``windows``, one of timesteps over all of them.
        """
        u, density = torch.rand(count, generator=generator, dtype=torch.float64), DENSITIES[self.name]
        parts = windows if density.local else 1

        def quantile(u: Tensor) -> Tensor:
            return within_windows(lambda part: density.quantile(part, self, alignment), u, parts)

        return _in_range(quantile, u, self.low, self.high) if self.has_range else quantile(u)


def _in_range(quantile: Callable[[Tensor], Tensor], u: Tensor, low: float, high: float) -> Tensor:
    """Flow times of uniform numbers u in [0, 1), of a density given that it is in [low, high].

    Raises:
        ValueError: the density has none there.
    """
    first, last = quantile(torch.tensor([0.0, 1.0], dtype=u.dtype)).tolist()
    rising = quantile if first <= last else (lambda u: quantile(1 - u))
    start, end = _least(lambda u: rising(u) >= low, u.dtype), _least(lambda u: rising(u) > high, u.dtype)
    if not start < end:
        raise ValueError(
            f"no flow time from t_low {low:g} to t_high {high:g} is trained with this density, whose times are from "
            f"{min(first, last):.3g} to {max(first, last):.3g}; choose a wider range, or another density"
        )
    return rising(start + (end - start) * u).clamp(low, high)


def _least(holds: Callable[[Tensor], Tensor], dtype: torch.dtype) -> float:
    """The least u in [0, 1] from which on a condition holds, to 2^-54; 1 if it holds nowhere."""
    start, end = 0.0, 1.0
    for _ in range(9):
        u = torch.linspace(start, end, 65, dtype=dtype)
        true = holds(u)
        if bool(true[0]):
            return start
        if not bool(true[-1]):
            return end
        place = int(true.int().argmax())
        start, end = float(u[place - 1]), float(u[place])
    return end


def _logit_normal(u: Tensor, density: TimeDensity, alignment: FlowAlignment) -> Tensor:
    return torch.sigmoid(density.mean + density.std * torch.special.ndtri(u))


def _u_shaped(u: Tensor, density: TimeDensity, alignment: FlowAlignment) -> Tensor:
    """Quantile of p(t) proportional to cosh(a (2 t - 1))."""
    a = torch.tensor(U_STEEPNESS, dtype=u.dtype)
    return (1 + torch.asinh(torch.sinh(a) * (2 * u - 1)) / a) / 2


def _timestep(u: Tensor, density: TimeDensity, alignment: FlowAlignment) -> Tensor:
    return alignment.flow_time(alignment.schedule.drawn(u))


class Density(NamedTuple):
    """A density of flow times.

    Attributes:
        quantile: u in [0, 1), settings, alignment -> t.
        local: whether a path in windows has it in each of them.
        ranged: whether a range of flow times makes sense with it.
    """

    quantile: Callable[[Tensor, TimeDensity, FlowAlignment], Tensor]
    local: bool = True
    ranged: bool = True


DENSITIES: Mapping[str, Density] = MappingProxyType(
    {
        "uniform": Density(lambda u, density, alignment: u),
        "logit_normal": Density(_logit_normal),
        "u_shaped": Density(_u_shaped),
        "timestep": Density(_timestep, local=False),
        "few_steps": Density(lambda u, density, alignment: (2 * u).floor().clamp(max=1) / 2, local=False, ranged=False),
    }
)
"""Name of a density -> what it is."""


def check_name(kind: str, name: str, table: Mapping[str, object]) -> None:
    """Raise ValueError for a name that is not in its table."""
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; allowed are {', '.join(map(repr, table))}")
