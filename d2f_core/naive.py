"""Naive flow matching: the network's raw output is taken for the velocity.

The paper's baseline. Nothing is aligned,

    network input = x_fm        timestep = (1 - t) T        velocity = model_output        x0 = x_fm + (1 - t) velocity

so a diffusion network has to unlearn its schedule and its prediction type before it learns anything else.
``NaiveAlignment`` has the methods of ``FlowAlignment`` and stands wherever that one does.
"""

from dataclasses import dataclass

from torch import Tensor

from .coordinate import as_coordinate, as_tensor, clamp
from .velocity import FlowAlignment, checked_flow_time, combine


@dataclass(frozen=True, eq=False)
class NaiveAlignment(FlowAlignment):
    """Flow time read as a timestep, output read as a velocity; see the module's head.

    Timesteps end at T - 1 as the network knows no later one, and the level of timestep 0 is that of timestep 1/2,
    so that it stays above 0 as samplers need it.
    """

    @property
    def t_min(self) -> float:
        """Flow time of timestep T - 1, ``1 / T``."""
        return 1 / len(self.schedule)

    @property
    def t_max(self) -> float:
        """Flow time of timestep 0, ``1 - 1 / (2 T)``."""
        return 1 - 0.5 / len(self.schedule)

    def timestep(self, t: Tensor | float) -> Tensor:
        """``(1 - t) T``, at most T - 1. Shape of t, float64."""
        rows = len(self.schedule)
        return as_tensor(clamp((1 - checked_flow_time(t)) * rows, high=rows - 1))

    def flow_time(self, timestep: Tensor | float) -> Tensor:
        """``1 - timestep / T``, clamped to [t_min, t_max]. Shape of the timestep, float64."""
        return as_tensor(clamp(1 - as_coordinate(timestep) / len(self.schedule), self.t_min, self.t_max))

    def to_diffusion(self, x_fm: Tensor, t: Tensor | float) -> Tensor:
        """The state itself: what the network is given, (B, *)."""
        return x_fm

    def to_flow(self, x_dm: Tensor, t: Tensor | float) -> Tensor:
        """The network's input itself, (B, *)."""
        return x_dm

    def denoised(self, model_output: Tensor, x_fm: Tensor, t: Tensor | float) -> Tensor:
        """``x_fm + (1 - t) model_output``, (B, *)."""
        return combine(1.0, x_fm, 1 - checked_flow_time(t, x_fm), model_output)

    def velocity(self, model_output: Tensor, x_fm: Tensor, t: Tensor | float) -> Tensor:
        """The network's answer itself, (B, *)."""
        return combine(0.0, x_fm, 1.0, model_output)
