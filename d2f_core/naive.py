"""Naive flow matching: the network's raw output is taken for the velocity.

The paper's baseline. Nothing is aligned,

    network input = x_fm        timestep = s T        velocity = model_output        x0 = x_fm + s velocity

so a diffusion network has to unlearn its schedule and its prediction type before it learns anything else.
``NaiveAlignment`` has the methods of ``FlowAlignment`` and stands wherever that one does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .time_map import FlowTime, exact, per_item
from .velocity import FlowAlignment, check_output


@dataclass(frozen=True, eq=False)
class NaiveAlignment(FlowAlignment):
    """Flow time read as a timestep, output read as a velocity.

    Timesteps end at T - 1 as the network knows no later one; timestep 0 has the s of 1/2, as samplers need one above 0.
    """

    def timestep(self, t: FlowTime | Tensor | float) -> Tensor:
        """``s T``, at most T - 1; shape and dtype of t."""
        rows = len(self.schedule)
        return (FlowTime.of(t).s * rows).clamp(max=rows - 1)

    def flow_time(self, timestep: Tensor | float) -> Tensor:
        """``1 - timestep / T``, in [1 / T, 1 - 1 / (2 T)]; shape of the timestep."""
        rows = len(self.schedule)
        return 1 - exact(timestep).clamp(0.5, rows - 1) / rows

    def to_diffusion(self, x_fm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """The state itself: what the network is given, (B, *)."""
        return x_fm

    def to_flow(self, x_dm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """The network's input itself, (B, *)."""
        return x_dm

    def denoised(self, model_output: Tensor, x_fm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """``x_fm + s model_output``, (B, *)."""
        check_output(model_output, x_fm)
        s = per_item(FlowTime.of(t, x_fm).s, x_fm)
        return torch.addcmul(x_fm.to(s.dtype), s, model_output.to(s.dtype)).to(x_fm.dtype)

    def velocity(self, model_output: Tensor, x_fm: Tensor, t: FlowTime | Tensor | float) -> Tensor:
        """The network's answer itself, (B, *)."""
        check_output(model_output, x_fm)
        return model_output.to(x_fm.dtype)
