"""Naive flow matching: the network's raw output is taken for the velocity.

The paper's baseline. Nothing is aligned,

    network input = x_fm        timestep = s T        velocity = model_output        x0 = x_fm + s velocity

so a diffusion network has to unlearn its schedule and its prediction type before it learns anything else. Up to the
sign this is how native flow networks are read, ``model_output = -velocity``: it is their row of the table of
predictions, negated, over the rows of the diffusion network's table.
"""

from dataclasses import dataclass

from torch import Tensor

from .prediction import PREDICTIONS, Prediction
from .schedule import NoiseSchedule
from .time_map import FlowTime, exact
from .velocity import FlowAlignment


@dataclass(frozen=True, eq=False)
class NaiveAlignment(FlowAlignment):
    """Flow time read as a timestep, output read as a velocity.

    Timesteps end at T - 1 as the network knows no later one; timestep 0 has the s of 1/2, as samplers need one above 0.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.schedule, NoiseSchedule):
            raise ValueError(
                "naive_fm counts flow time by the timesteps of a table, but this model has a continuous schedule; "
                "choose the objective diff2flow"
            )

    @property
    def row(self) -> Prediction:
        """The row of networks that return a velocity; ``prediction`` remains what the network returned before."""
        return PREDICTIONS["velocity"]

    def timestep(self, t: FlowTime | Tensor | float) -> Tensor:
        """``s T``, at most T - 1; shape and dtype of t."""
        rows = len(self.schedule)
        return (FlowTime.of(t).s * rows).clamp(max=rows - 1)

    def flow_time(self, timestep: Tensor | float) -> Tensor:
        """``1 - timestep / T``, in [1 / T, 1 - 1 / (2 T)]; shape of the timestep."""
        rows = len(self.schedule)
        return 1 - exact(timestep).clamp(0.5, rows - 1) / rows
