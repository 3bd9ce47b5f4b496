"""What is learned: objectives, densities of t, and weights.

Given x0 and eps, an objective asks the network at a flow time t and compares:

    objective    network input        timestep       what is compared
    diff2flow    x_dm at t            timestep(t)    velocity(output)  with  x0 - eps
    naive_fm     x_fm at t            (1 - t) T      output            with  x0 - eps
    diffusion    x_dm at t            timestep(t)    output            with  the network's own target
    flow         x_fm                 s multiplier   -output           with  x0 - eps

``diff2flow`` is the paper's; ``naive_fm`` its baseline, which takes the raw output for a velocity; ``diffusion`` is
the loss that the network was trained with; ``flow`` is what ``diff2flow`` comes to on a native flow network, where
nothing is to be aligned. Inside the table the errors of one prediction are multiples of
each other,

    |velocity error|^2 = |eps error|^2 / t^2 = |x0 error|^2 / (1 - t)^2 = |v error|^2 / (t^2 + (1 - t)^2)

so the diff2flow loss *is* an eps- or v-loss under another weight (x 244 at the noisiest row of the SD schedule)
and another density of t. Both are switches of their own: ``DENSITIES`` draw t, ``WEIGHTS`` multiply the squared
error that the objective compares.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from .naive import NaiveAlignment
from .time_map import FlowTime, per_item
from .velocity import FlowAlignment

# Steepness of the U-shaped density: its ends are cosh(4), 27 times, as likely as its middle.
U_STEEPNESS = 4.0


@dataclass(frozen=True)
class TimeDensity:
    """How flow times are drawn.

    Attributes:
        name: one of ``DENSITIES``: "uniform" in t; "logit_normal"; "u_shaped", dense at both ends (for reflow,
            arXiv 2405.20320); "timestep", uniform over the network's timesteps, as diffusion models are trained.
        mean, std: of logit(t), for "logit_normal".
    """

    name: str = "uniform"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _check_name("density", self.name, DENSITIES)
        if not self.std > 0:
            raise ValueError(f"the std of a density must be above 0, got {self.std}; 1 is usual")

    def sample(self, count: int, alignment: FlowAlignment, generator: torch.Generator) -> Tensor:
        """``count`` flow times in [0, 1], float64, on the CPU, from a private generator.

        ``alignment`` is that of the objective's coordinates: where a timestep lies in flow time depends on them.
        """
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        return DENSITIES[self.name](u, self, alignment)


def _logit_normal(u: Tensor, density: TimeDensity, alignment: FlowAlignment) -> Tensor:
    return torch.sigmoid(density.mean + density.std * torch.special.ndtri(u))


def _u_shaped(u: Tensor, density: TimeDensity, alignment: FlowAlignment) -> Tensor:
    """Quantile of p(t) proportional to cosh(a (2 t - 1))."""
    a = torch.tensor(U_STEEPNESS, dtype=u.dtype)
    return (1 + torch.asinh(torch.sinh(a) * (2 * u - 1)) / a) / 2


def _timestep(u: Tensor, density: TimeDensity, alignment: FlowAlignment) -> Tensor:
    return alignment.flow_time(alignment.schedule.drawn(u))


DENSITIES: Mapping[str, Callable[[Tensor, TimeDensity, FlowAlignment], Tensor]] = MappingProxyType(
    {
        "uniform": lambda u, density, alignment: u,
        "logit_normal": _logit_normal,
        "u_shaped": _u_shaped,
        "timestep": _timestep,
    }
)
"""Name of a density -> its quantile function: u in [0, 1), settings, alignment -> t."""

WEIGHTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "none": torch.ones_like,
        "eps": lambda t: t**2,
        "x0": lambda t: (1 - t) ** 2,
        "v": lambda t: t**2 + (1 - t) ** 2,
    }
)
"""Name of a weight -> t -> factor on the squared error; named for what it makes of a velocity loss."""


class ModelInput(NamedTuple):
    """What the network is given: its input (B, *), and its fractional timestep (B,) where the pair's t is."""

    network_input: Tensor
    timestep: Tensor


class Interpolant(NamedTuple):
    """A training pair at flow time t: clean latent and noise (B, *), t (B,), float64 on the CPU to be exact."""

    x0: Tensor
    eps: Tensor
    t: Tensor

    @property
    def x_fm(self) -> Tensor:
        """The state between them, ``t x0 + s eps``, (B, *)."""
        time = FlowTime.of(self.t, self.x0)
        return per_item(time.t, self.x0) * self.x0 + per_item(time.s, self.x0) * self.eps


def _compare_velocity(alignment: FlowAlignment, pair: Interpolant, output: Tensor) -> tuple[Tensor, Tensor]:
    return alignment.velocity(output, pair.x_fm, pair.t), pair.x0 - pair.eps


def _compare_native(alignment: FlowAlignment, pair: Interpolant, output: Tensor) -> tuple[Tensor, Tensor]:
    return output, alignment.target(pair.x0, pair.eps, pair.t)


def _naive(alignment: FlowAlignment) -> FlowAlignment:
    return NaiveAlignment(alignment.schedule, alignment.prediction)


class ObjectiveRule(NamedTuple):
    """What an objective is; nowhere else is there a branch on its name.

    Attributes:
        coordinates: of the network's alignment -> the coordinates in which it is trained, and is to be sampled.
        compare: (coordinates, pair, model output) -> what is compared with what, both (B, *).
        is_flow: the result is sampled as a flow matching model, not as the diffusion model that it was.
        is_aligned: it is sampled like any converted model, and its network still returns what the base model's does.
        density: the one of ``DENSITIES`` that it is defined with: that of flow matching, or of the network's training.
        on_flow: what it comes to on a native flow network, the name of an objective; "" where it makes no sense.
    """

    coordinates: Callable[[FlowAlignment], FlowAlignment]
    compare: Callable[[FlowAlignment, Interpolant, Tensor], tuple[Tensor, Tensor]]
    is_flow: bool
    is_aligned: bool
    density: str = "uniform"
    on_flow: str = ""


OBJECTIVES: Mapping[str, ObjectiveRule] = MappingProxyType(
    {
        "diff2flow": ObjectiveRule(
            lambda alignment: alignment, _compare_velocity, is_flow=True, is_aligned=True, on_flow="flow"
        ),
        "naive_fm": ObjectiveRule(_naive, _compare_velocity, is_flow=True, is_aligned=False),
        "diffusion": ObjectiveRule(
            lambda alignment: alignment, _compare_native, is_flow=False, is_aligned=True, density="timestep"
        ),
        "flow": ObjectiveRule(
            lambda alignment: alignment, _compare_velocity, is_flow=True, is_aligned=True, on_flow="flow"
        ),
    }
)
"""Name of an objective -> what it is."""


def objective_on(alignment: FlowAlignment, name: str) -> str:
    """The objective that ``name`` comes to on a network, "flow" for ``diff2flow`` on a native flow network.

    Raises:
        ValueError: it makes no sense there.
    """
    _check_name("objective", name, OBJECTIVES)
    found = OBJECTIVES[name].on_flow if alignment.row.is_flow else name
    if not found:
        raise ValueError(
            f"objective is {name}, which is for diffusion models, but this is a flow matching model of its own; choose "
            "diff2flow, which on such a model is plain flow matching"
        )
    return found


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss for fine-tuning a network.

    Attributes:
        alignment: schedule and prediction type of the network.
        name: one of ``OBJECTIVES``.
        weight: one of ``WEIGHTS``.
        huber: threshold of the Huber loss; None for the squared error.
    """

    alignment: FlowAlignment
    name: str = "diff2flow"
    weight: str = "none"
    huber: float | None = None

    def __post_init__(self) -> None:
        _check_name("objective", self.name, OBJECTIVES)
        _check_name("weight", self.weight, WEIGHTS)
        if self.huber is not None and not self.huber > 0:
            raise ValueError(f"the threshold of the Huber loss must be above 0, got {self.huber}; leave it out for MSE")
        self.coordinates  # noqa: B018, refuses a network that does not have them

    @cached_property
    def coordinates(self) -> FlowAlignment:
        """The coordinates in which the network is trained, and is to be sampled: naive ones for ``naive_fm``."""
        return OBJECTIVES[self.name].coordinates(self.alignment)

    def model_input(self, pair: Interpolant) -> ModelInput:
        """What to give the network for a pair."""
        return ModelInput(self.coordinates.to_diffusion(pair.x_fm, pair.t), self.coordinates.timestep(pair.t))

    def loss(self, model_output: Tensor, pair: Interpolant, mask: Tensor | None = None) -> Tensor:
        """Loss of each item, float32 or better, shape (B,).

        Args:
            model_output: the network's answer, (B, *).
            pair: what it was asked about.
            mask: weights of the spatial positions of each item, broadcastable to (B, *); an item whose mask is all zero
                has loss 0.
        """
        value, target = OBJECTIVES[self.name].compare(self.coordinates, pair, model_output)
        error = self._error(value.to(torch.promote_types(value.dtype, torch.float32)), target)
        weight = WEIGHTS[self.weight](pair.t).to(error)
        positions = torch.ones_like(error) if mask is None else mask.to(error).expand_as(error)
        return weight * (error * positions).flatten(1).sum(1) / positions.flatten(1).sum(1).clamp(min=1e-12)

    def _error(self, value: Tensor, target: Tensor) -> Tensor:
        if self.huber is None:
            return torch.nn.functional.mse_loss(value, target.to(value), reduction="none")
        return torch.nn.functional.huber_loss(value, target.to(value), reduction="none", delta=self.huber)


def _check_name(kind: str, name: str, table: Mapping[str, object]) -> None:
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; allowed are {', '.join(map(repr, table))}")
