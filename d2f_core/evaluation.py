"""The velocity as solvers call it: counted, limited, and checked.

    velocity = d x / d t (t, x)          NFE: number of function evaluations, what sampling costs

Solvers are compared at equal NFE, since a step of one costs what several of another do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

VelocityFn = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SolverStep:
    """What ``on_step`` gets after each step: its number from 0, the flow time reached, calls so far."""

    index: int
    t: float
    nfe: int


class EvaluationLimitError(RuntimeError):
    """A solver asked for more velocity evaluations than it was allowed."""


class NonFiniteVelocityError(ArithmeticError):
    """The velocity had NaN or infinite values."""


class CountedVelocity:
    """A velocity that counts its calls in ``nfe`` and stops at ``limit``."""

    def __init__(self, velocity_fn: VelocityFn, limit: int | None = None) -> None:
        self.velocity_fn = velocity_fn
        self.limit = limit
        self.nfe = 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        if self.limit is not None and self.nfe >= self.limit:
            raise EvaluationLimitError(
                f"the solver reached its limit of {self.limit} evaluations at t = {float(t):.4f} of 1; raise the "
                "limit (max_nfe), or loosen the tolerances (rtol, atol)"
            )
        self.nfe += 1
        return self.velocity_fn(t, x)


def check_finite(value: Tensor, start: float, end: float) -> Tensor:
    """``value``, (B, *), which a step from flow time ``start`` to ``end`` gave.

    Raises:
        NonFiniteVelocityError: it has NaN or infinite values.
    """
    if not bool(torch.isfinite(value).all()):
        where = f"at t = {start:.4f}" if math.isclose(start, end) else f"between t = {start:.4f} and {end:.4f}"
        raise NonFiniteVelocityError(
            f"the velocity is NaN or infinite {where}; the network overflowed: run it in float32 or bfloat16, "
            "lower the CFG, or check the LoRA"
        )
    return value
