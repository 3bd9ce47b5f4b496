"""The velocity of a network in training, with classifier-free guidance.

    velocity = v(null) + cfg (v(condition) - v(null))

Velocities are affine in the network's output, with the same state in both, so the outputs are combined instead. Each
gets a call of its own, as patches may want to know which of the two a call is for.
"""

from typing import Any

from torch import Tensor

from ...d2f_core import FlowAlignment, FlowTime
from .. import host
from .text_condition import of_batch

NEGATIVE = 1  # the role of a call, 0 for a positive prompt


class CfgVelocity:
    """``velocity(t, x)`` for ``d2f_core.solve``; raises the user's interrupt.

    Args:
        network: a network in training.
        coordinates: alignment that maps between the flow and the network.
        condition: conditioning kwargs of the batch, as of ``join``.
        null: those of the empty prompt, of the batch or tensors (1, ...); None without guidance.
        cfg: guidance scale; 1 disables guidance.
    """

    def __init__(
        self,
        network: host.TrainingNetwork,
        coordinates: FlowAlignment,
        condition: Any,
        null: Any = None,
        cfg: float = 1.0,
    ) -> None:
        self.network, self.coordinates, self.cfg = network, coordinates, cfg
        self.condition, self.null = condition, None if cfg == 1 else null

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        host.throw_if_interrupted()
        time = FlowTime.of(t, x)
        state = self.coordinates.to_diffusion(x, time)
        timestep = self.coordinates.timestep(time).expand(len(state))
        output = self.network(state, timestep, self.condition)
        if self.null is not None:
            negative = self.network(state, timestep, of_batch(self.null, len(state)), NEGATIVE)
            output = negative + self.cfg * (output - negative)
        return self.coordinates.velocity(output, x, time)
