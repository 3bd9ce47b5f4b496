"""The velocity of a network in training, with classifier-free guidance in one call.

    velocity = v(null) + cfg (v(condition) - v(null))

Velocities are affine in the network's output, with the same state in both, so the outputs are combined instead.
"""

import torch
from torch import Tensor

from ...d2f_core import FlowAlignment, FlowTime
from .. import host
from .conditionings import join


class CfgVelocity:
    """``velocity(t, x)`` for ``d2f_core.solve``; raises the user's interrupt.

    Args:
        network: a network in training.
        coordinates: in which it is used.
        condition: what it is told, tensors (B, ...).
        null: what it is told instead of a caption, tensors (1, ...) for all or (B, ...); None for no guidance.
        cfg: scale of the guidance; 1 for none.
    """

    def __init__(
        self,
        network: host.TrainingNetwork,
        coordinates: FlowAlignment,
        condition: host.Condition,
        null: host.Condition | None = None,
        cfg: float = 1.0,
    ) -> None:
        self.network, self.coordinates, self.cfg = network, coordinates, cfg
        self.guided = null is not None and cfg != 1
        told = condition
        if null is not None and self.guided:
            told = join([condition, *[null] * (_count(condition) // _count(null))])
        self.told = {name: value.to(network.device) for name, value in told.items()}

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        host.throw_if_interrupted()
        time = FlowTime.of(t, x)
        state = self.coordinates.to_diffusion(x, time)
        state = torch.cat([state, state]) if self.guided else state
        timestep = self.coordinates.timestep(time).expand(len(state))
        output = self.network(state, timestep, self.told)
        if self.guided:
            positive, negative = output.chunk(2)
            output = negative + self.cfg * (positive - negative)
        return self.coordinates.velocity(output, x, time)


def _count(condition: host.Condition) -> int:
    """Of the items that a condition is for."""
    return max(len(value) for value in condition.values())
