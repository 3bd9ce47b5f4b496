"""Solvers for ``d x / d t = velocity(t, x)``: for a flow, from noise at t = 0 to data at t = 1.

A fixed-step solver is data, a Butcher tableau (c, a, b). With step h from t:

    k_i = velocity(t + c_i h,  x + h sum_{j<i} a_ij k_j)          x(t + h) = x + h sum_i b_i k_i

A velocity that is computed as (x0 - x) / s, s = 1 - t, does not exist at t = 1. Then the last interval is solved with
``open_end``: a tableau with all c < 1, of an order that keeps the order of the whole (one step of local error h^p is
enough for a method of order p). Euler and midpoint never look at the end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count, pairwise
from types import MappingProxyType

import torch
from torch import Tensor

from .adaptive import ADAPTIVE_METHODS, TorchdiffeqFlow
from .nfe import CountedVelocity, SolverStep, VelocityFn


@dataclass(frozen=True)
class Tableau:
    """Explicit Runge-Kutta method: nodes c, rows a of the stages after the first, weights b; its stand-in at an end."""

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    open_end: "Tableau | None" = None


_EULER = Tableau((0,), (), (1,))
_MIDPOINT = Tableau((0, 1 / 2), ((1 / 2,),), (0, 1))
_HEUN = Tableau((0, 1), ((1,),), (1 / 2, 1 / 2), _MIDPOINT)
_RALSTON3 = Tableau((0, 1 / 2, 3 / 4), ((1 / 2,), (0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9))
_RK4 = Tableau((0, 1 / 2, 1 / 2, 1), ((1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), _RALSTON3)

FIXED_METHODS: Mapping[str, Tableau] = MappingProxyType(
    {"euler": _EULER, "midpoint": _MIDPOINT, "heun": _HEUN, "rk4": _RK4}  # orders 1, 2, 2 and 4
)
METHODS: tuple[str, ...] = (*FIXED_METHODS, *ADAPTIVE_METHODS)


def solve(
    velocity_fn: VelocityFn,
    x: Tensor,
    ts: Tensor,
    method: str = "euler",
    *,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    open_end: bool = False,
    on_step: Callable[[SolverStep], None] | None = None,
) -> Tensor:
    """Integrate x from ``ts[0]`` to ``ts[-1]``.

    Args:
        velocity_fn: ``(t, x) -> velocity`` with t of shape (), float64, and x, velocity of shape (B, *). A
            ``CountedVelocity`` goes on counting, and says what errors call t.
        x: state at ``ts[0]``, (B, *).
        ts: times, strictly monotone, at least 2; fixed-step solvers take one step per interval, adaptive ones only stop
            there.
        method: one of ``METHODS``.
        rtol, atol: tolerances of the adaptive solvers.
        open_end: the velocity is not defined at ``ts[-1]``. Fixed-step solvers then use their ``open_end`` tableau
            there; adaptive ones stop at ``ts[-2]`` and take one Euler step.
        on_step: called after each (accepted) step.

    Returns:
        State at ``ts[-1]``, (B, *), in the dtype of x.

    Raises:
        ValueError for bad arguments, NonFiniteVelocityError, ModuleNotFoundError for a missing torchdiffeq.
    """
    if method not in METHODS:
        raise ValueError(f"unknown solver {method!r}; allowed are {', '.join(map(repr, METHODS))}")
    counted = velocity_fn if isinstance(velocity_fn, CountedVelocity) else CountedVelocity(velocity_fn)
    times, done = _check_times(ts, counted.variable), count()

    def report(time: float) -> None:
        if on_step is not None:
            on_step(SolverStep(next(done), time, counted.nfe))

    if method in ADAPTIVE_METHODS:
        _check_adaptive(times, rtol, atol, open_end)
        x = TorchdiffeqFlow(counted, x, times[:-1] if open_end else times, report).integrate(method, rtol, atol)
        method, times = "euler", times[-2:] if open_end else []
    for start, end in pairwise(times):
        tableau = FIXED_METHODS[method]
        if open_end and end == times[-1]:
            tableau = tableau.open_end or tableau
        x = _step(counted, x, start, end, tableau)
        report(end)
    return x


def _step(velocity_fn: CountedVelocity, x: Tensor, start: float, end: float, tableau: Tableau) -> Tensor:
    """One Runge-Kutta step; a stage at c = 1 is evaluated at ``end`` itself, without rounding."""
    h = end - start
    k: list[Tensor] = []
    for c, row in zip(tableau.c, ((), *tableau.a), strict=True):
        t = torch.tensor(end if c == 1 else start + c * h, dtype=torch.float64)
        k.append(velocity_fn(t, advance(x, h, row, k)))
    return velocity_fn.check_finite(advance(x, h, tableau.b, k), start, end)


def advance(x: Tensor, h: float, weights: tuple[float, ...], k: list[Tensor]) -> Tensor:
    """``x + h sum_i weights_i k_i`` (B, *) without the terms of weight 0; slopes k (B, *) of the stages so far."""
    for weight, slope in zip(weights, k, strict=True):
        if weight:
            x = x + (h * weight) * slope
    return x


def _check_adaptive(times: list[float], rtol: float, atol: float, open_end: bool) -> None:
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise ValueError(f"tolerances must be at least 0 and not both 0, got rtol {rtol} and atol {atol}; try 1e-4")
    if open_end and len(times) < 3:
        raise ValueError(
            "an adaptive solver whose end is open needs a time before it at which to stop; pass 3 or more times"
        )


def _check_times(ts: Tensor, variable: str) -> list[float]:
    times = torch.as_tensor(ts).detach().cpu().double()
    steps = times.diff() if times.ndim == 1 else times
    if times.ndim != 1 or len(times) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        shown = [round(value, 6) for value in times.flatten()[:8].tolist()]
        raise ValueError(
            f"the {variable}s of a solver must be one-dimensional with at least 2 strictly ascending (or strictly "
            f"descending) values, got shape {tuple(times.shape)} starting {shown}; drop repeated values"
        )
    return times.tolist()
