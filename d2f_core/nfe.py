"""The NFE counter: a velocity as solvers call it, counted, limited and checked.

    velocity = d x / d t (t, x)          NFE: number of function evaluations, what sampling costs

Solvers are compared at equal NFE, since a step of one costs what several of another do.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

VelocityFn = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SolverStep:
    """What ``on_step`` gets after each step: its number from 0, the time reached, the evaluations so far."""

    index: int
    time: float
    nfe: int


class EvaluationLimitError(RuntimeError):
    """A solver asked for more velocity evaluations than it was allowed."""


class NonFiniteVelocityError(ArithmeticError):
    """The velocity had NaN or infinite values."""


class CountedVelocity:
    """A velocity that counts its calls in ``nfe``.

    Args:
        velocity_fn: as of ``solve``.
        limit: most calls, None for no limit.
        variable: what errors call the time: "t", or "sigma" where that is what the user knows.
    """

    def __init__(self, velocity_fn: VelocityFn, limit: int | None = None, variable: str = "t") -> None:
        self.velocity_fn, self.limit, self.variable = velocity_fn, limit, variable
        self.nfe = 0

    def __call__(self, time: Tensor, x: Tensor) -> Tensor:
        """The velocity, (B, *); EvaluationLimitError beyond the limit."""
        if self.limit is not None and self.nfe >= self.limit:
            raise EvaluationLimitError(
                f"the solver reached its limit of {self.limit} evaluations at {self.variable} = {float(time):.4f}; "
                "raise the limit (max_nfe), or loosen the tolerances (rtol, atol)"
            )
        self.nfe += 1
        return self.velocity_fn(time, x)

    def check_finite(self, value: Tensor, start: float, end: float) -> Tensor:
        """``value`` (B, *) that a step from ``start`` to ``end`` gave; NonFiniteVelocityError for NaN or infinity."""
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteVelocityError(
                f"the velocity is NaN or infinite between {self.variable} = {start:.4f} and {end:.4f}; the network "
                "overflowed: run it in float32 or bfloat16, lower the CFG, or check the LoRA"
            )
        return value
