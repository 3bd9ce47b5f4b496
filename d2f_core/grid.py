"""Grids of flow time: where a solver stops.

A grid runs from ``t_start`` to 1 with ``steps`` intervals. With u = 0, 1/steps, .., 1:

    uniform:       q = u
    shifted:       1 - q = shift (1 - u) / (1 + (shift - 1) (1 - u))       Esser et al., arXiv 2403.03206
    logit_normal:  q = sigmoid(mean + std Phi^-1(u)), the quantiles of the density that the same paper trains with

    t = t_start + (1 - t_start) q

Scaling q, not t, keeps both ends in place: every grid starts at t_start, whatever its shift.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

STARTS = ("t_min", "noise")
"""Where sampling starts: at the noisiest level that the network was trained on, or at t = 0."""


def shift_sigmas(s: Tensor, shift: float) -> Tensor:
    """``shift s / (1 + (shift - 1) s)`` for flow sigmas s in [0, 1], any shape; shift > 1 adds noise."""
    if not shift > 0:
        raise ValueError(f"shift must be above 0, got {shift}; 1 leaves the sigmas as they are")
    return s if shift == 1 else shift * s / (1 + (shift - 1) * s)


def _logit_normal(u: Tensor, mean: float, std: float) -> Tensor:
    if not std > 0:
        raise ValueError(f"the std of the logit-normal grid must be above 0, got {std}; 1 is usual")
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


FLOW_GRIDS: Mapping[str, Callable[[Tensor, float, float, float], Tensor]] = MappingProxyType(
    {
        "uniform": lambda u, shift, mean, std: u,
        "shifted": lambda u, shift, mean, std: 1 - shift_sigmas(1 - u, shift),
        "logit_normal": lambda u, shift, mean, std: _logit_normal(u, mean, std),
    }
)
"""Name of a grid -> (u, shift, mean, std) -> q, all in [0, 1]."""


def flow_grid(
    name: str, steps: int, *, t_start: float = 0.0, shift: float = 1.0, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    """Flow times from ``t_start`` to 1, ascending, float64, shape (steps + 1,).

    Args:
        name, steps: one of ``FLOW_GRIDS``, and its number of intervals, at least 1.
        t_start: first flow time, in [0, 1).
        shift: for "shifted": above 1 spends more steps on noise, below 1 on detail.
        mean, std: for "logit_normal": of the normal density of logit(q).
    """
    if name not in FLOW_GRIDS:
        raise ValueError(f"unknown grid {name!r}; allowed are {', '.join(map(repr, FLOW_GRIDS))}")
    if steps < 1:
        raise ValueError(f"a grid needs at least 1 step, got {steps}")
    if not 0 <= t_start < 1:
        raise ValueError(f"t_start must be in [0, 1), got {t_start}; 0 is pure noise and 1 is data")
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return t_start + (1 - t_start) * FLOW_GRIDS[name](u, shift, mean, std)
