"""Piecewise reflow: paths that are straight in each of K windows of t, instead of on all of it.

An adapter that cannot straighten the whole path of a teacher may still straighten each part of it (Yan et al., PeRFlow,
arXiv 2405.07510). With the teacher's states x_k at the edges t_k = k / K, from the noise x_0 to the latent x_K, a
student learns for t in window k

    v = (x_{k+1} - x_k) / (t_{k+1} - t_k)      state = x_k + (t - t_k) v      velocity = v

which is the loss of reflow on a virtual pair, as

    eps* = x_k - t_k v,  x0* = x_k + (1 - t_k) v:      t x0* + (1 - t) eps* = x_k + (t - t_k) v,  x0* - eps* = v

K = 1 is plain reflow. The student takes K steps of Euler's method, one per window.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from .nfe import SolverStep, VelocityFn
from .reflow import FlowPath, straightness
from .solve import solve
from .time_map import per_item

WINDOWS = (1, 2, 4, 8)


def edges(windows: int) -> Tensor:
    """Flow times of the edges, from 0 to 1, float64, (windows + 1,)."""
    return torch.linspace(0, 1, windows + 1, dtype=torch.float64)


def check_steps(steps: int, windows: int) -> None:
    """Raise ValueError unless equal steps stop at every edge."""
    if steps % windows:
        fewer = steps - steps % windows
        choices = f"{fewer} or {fewer + windows}" if fewer else str(windows)
        raise ValueError(
            f"steps is {steps}, but with {windows} windows it must be a multiple of {windows}, so that the sampler "
            f"stops at every edge: set steps to {choices}"
        )


def solve_windows(
    velocity_fn: VelocityFn,
    x: Tensor,
    ts: Tensor,
    windows: int,
    method: str = "euler",
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """States at the edges of the windows, (windows + 1, B, *), of the path from x; the last is what ``solve`` returns.

    Args:
        velocity_fn, x, method: as of ``solve``; a solver with fixed steps.
        ts: flow times from 0 to 1, whose number of equal steps is a multiple of ``windows``.
        on_step: called with the number of steps done.

    Raises:
        ValueError: the number of steps is none; and what ``solve`` raises.
    """
    check_steps(len(ts) - 1, windows)
    length = (len(ts) - 1) // windows
    states = [x]
    for first in range(0, len(ts) - 1, length):

        def report(step: SolverStep, before: int = first + 1) -> None:
            if on_step is not None:
                on_step(before + step.index)

        states.append(solve(velocity_fn, states[-1], ts[first : first + length + 1], method, on_step=report))
    return torch.stack(states)


def window_straightness(path: FlowPath, windows: int) -> Tensor:
    """Mean of the straightness within windows of equal length, (B,): 0 for a path that bends at their edges only.

    Args:
        path: from 0 to 1. windows: their number; each edge is taken at the nearest of the path's times.
    """
    at = [int((path.ts - edge).abs().argmin()) for edge in edges(windows)]
    parts = [FlowPath(path.ts[a : b + 1], path.states[a : b + 1]) for a, b in pairwise(at) if a < b]
    return torch.stack([straightness(part) for part in parts]).mean(0)


def virtual_pair(eps: Tensor, waypoints: Tensor, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and latent whose line is the chord of the window that t lies in.

    Args:
        eps, x0: ends of the path, (B, *), float32 or better.
        waypoints: states at the edges between them, (B, windows - 1, *).
        t: flow times, (B,), float64 on the CPU.

    Returns:
        eps* and x0*, (B, *) each.
    """
    states = torch.cat([eps[:, None], waypoints.to(eps), x0[:, None]], dim=1)
    windows = states.shape[1] - 1
    window = (t * windows).floor().clamp(0, windows - 1)
    at, rows = window.long().to(eps.device), torch.arange(len(eps), device=eps.device)
    start, velocity = states[rows, at], (states[rows, at + 1] - states[rows, at]) * windows
    begin = per_item((window / windows).to(eps), eps)
    return start - begin * velocity, start + (1 - begin) * velocity


def within_windows(quantile: Callable[[Tensor], Tensor], u: Tensor, windows: int) -> Tensor:
    """Flow times of uniform numbers u in [0, 1): each window is as likely, and has the same density inside.

    Args:
        quantile: that of the density on [0, 1]: u -> t.
    """
    window = (u * windows).floor().clamp(max=windows - 1)
    return (window + quantile(u * windows - window)) / windows


def coarser(waypoints: Tensor, windows: int) -> Tensor:
    """The waypoints of fewer windows, (B, windows - 1, *), from those of a multiple of them."""
    stored = waypoints.shape[1] + 1
    return waypoints[:, stored // windows - 1 :: stored // windows][:, : windows - 1]
