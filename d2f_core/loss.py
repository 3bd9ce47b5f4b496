"""What is learned: objectives and weights.

Given x0 and eps, an objective asks the network at a flow time t and compares:

    objective    network input        timestep       what is compared
    diff2flow    x_dm at t            timestep(t)    velocity(output)  with  x0 - eps
    naive_fm     x_fm at t            (1 - t) T      output            with  x0 - eps
    diffusion    x_dm at t            timestep(t)    output            with  the network's own target
    flow         x_fm                 s multiplier   -output           with  x0 - eps
    consistency  x_dm at t            timestep(t)    velocity(output)  with  the end that is foretold later on the path

``diff2flow`` is the paper's; ``naive_fm`` its baseline, which takes the raw output for a velocity; ``diffusion`` is
the loss that the network was trained with; ``flow`` is what ``diff2flow`` comes to on a native flow network, where
nothing is to be aligned; ``consistency`` is a finish of reflow. Inside the table the errors of one prediction are
multiples of each other,

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

from .density import check_name
from .loss_weights import WEIGHTS
from .naive import NaiveAlignment
from .time_map import FlowTime, per_item
from .velocity import FlowAlignment


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


def _same(alignment: FlowAlignment, t: Tensor) -> Tensor:
    return torch.ones_like(t)


def _slope(alignment: FlowAlignment, t: Tensor) -> Tensor:
    """d velocity / d output, (B,): a velocity is affine in the network's output."""
    one, zero = torch.ones_like(t)[:, None], torch.zeros_like(t)[:, None]
    return (alignment.velocity(one, zero, t) - alignment.velocity(zero, zero, t)).flatten()


def _naive(alignment: FlowAlignment) -> FlowAlignment:
    return NaiveAlignment(alignment.schedule, alignment.prediction)


class ObjectiveRule(NamedTuple):
    """What an objective is; nowhere else is there a branch on its name.

    Attributes:
        coordinates: of the network's alignment -> the coordinates in which it is trained, and is to be sampled.
        compare: (coordinates, pair, model output) -> what is compared with what, both (B, *).
        slope: (coordinates, t) -> the velocity error as a multiple of the error that is compared, (B,).
        is_flow: the result is sampled as a flow matching model, not as the diffusion model that it was.
        is_aligned: it is sampled like any converted model, and its network still returns what the base model's does.
        density: the one of ``DENSITIES`` that it is defined with: that of flow matching, or of the network's training.
        on_flow: what it comes to on a native flow network, the name of an objective; "" where it makes no sense.
        is_consistent: what is learned is what the average of the weights says later on the path of a reflow pair.
    """

    coordinates: Callable[[FlowAlignment], FlowAlignment]
    compare: Callable[[FlowAlignment, Interpolant, Tensor], tuple[Tensor, Tensor]]
    slope: Callable[[FlowAlignment, Tensor], Tensor]
    is_flow: bool
    is_aligned: bool
    density: str = "uniform"
    on_flow: str = ""
    is_consistent: bool = False


OBJECTIVES: Mapping[str, ObjectiveRule] = MappingProxyType(
    {
        "diff2flow": ObjectiveRule(
            lambda alignment: alignment, _compare_velocity, _same, is_flow=True, is_aligned=True, on_flow="flow"
        ),
        "naive_fm": ObjectiveRule(_naive, _compare_velocity, _same, is_flow=True, is_aligned=False),
        "diffusion": ObjectiveRule(
            lambda alignment: alignment, _compare_native, _slope, is_flow=False, is_aligned=True, density="timestep"
        ),
        "consistency": ObjectiveRule(
            lambda alignment: alignment,
            _compare_velocity,
            _same,
            is_flow=True,
            is_aligned=True,
            density="few_steps",
            on_flow="consistency",
            is_consistent=True,
        ),
        "flow": ObjectiveRule(
            lambda alignment: alignment, _compare_velocity, _same, is_flow=True, is_aligned=True, on_flow="flow"
        ),
    }
)
"""Name of an objective -> what it is."""

CHOSEN_OBJECTIVES = tuple(
    name for name in OBJECTIVES if not any(rule.on_flow == name != other for other, rule in OBJECTIVES.items())
)
"""Those that one asks for; the others are what these come to on a native flow network."""


def objective_on(alignment: FlowAlignment, name: str) -> str:
    """The objective that ``name`` comes to on a network, "flow" for ``diff2flow`` on a native flow network.

    Raises:
        ValueError: it makes no sense there.
    """
    check_name("objective", name, OBJECTIVES)
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
        gamma: parameter of the weight; 0 for the weight's own.
    """

    alignment: FlowAlignment
    name: str = "diff2flow"
    weight: str = "none"
    huber: float | None = None
    gamma: float = 0.0

    def __post_init__(self) -> None:
        check_name("objective", self.name, OBJECTIVES)
        check_name("weight", self.weight, WEIGHTS)
        if self.huber is not None and not self.huber > 0:
            raise ValueError(f"the threshold of the Huber loss must be above 0, got {self.huber}; leave it out for MSE")
        if not self.gamma >= 0:
            raise ValueError(f"gamma of a weight must be above 0, got {self.gamma}; 0 stands for the weight's own")
        self.coordinates  # noqa: B018, refuses a network that does not have them

    @cached_property
    def coordinates(self) -> FlowAlignment:
        """The coordinates in which the network is trained, and is to be sampled: naive ones for ``naive_fm``."""
        return OBJECTIVES[self.name].coordinates(self.alignment)

    @property
    def is_consistent(self) -> bool:
        """Whether the target is what the average of the weights says later on the path."""
        return OBJECTIVES[self.name].is_consistent

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
        weight = self._weight(pair.t).to(error)
        positions = torch.ones_like(error) if mask is None else mask.to(error).expand_as(error)
        return weight * (error * positions).flatten(1).sum(1) / positions.flatten(1).sum(1).clamp(min=1e-12)

    def _weight(self, t: Tensor) -> Tensor:
        """Factor on the squared error that is compared, (B,)."""
        row = WEIGHTS[self.weight]
        factor = row.factor(t, self.gamma or row.gamma or 0.0)
        return factor * OBJECTIVES[self.name].slope(self.coordinates, t) ** 2 if row.of_velocity else factor

    def _error(self, value: Tensor, target: Tensor) -> Tensor:
        if self.huber is None:
            return torch.nn.functional.mse_loss(value, target.to(value), reduction="none")
        return torch.nn.functional.huber_loss(value, target.to(value), reduction="none", delta=self.huber)
