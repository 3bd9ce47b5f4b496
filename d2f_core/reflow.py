"""Reflow: paths that a model takes from noise to data, and how straight they are.

A model's ODE couples each noise eps with the latent x0 that it reaches. Trained on these pairs along the lines

    x_fm(t) = t x0 + (1 - t) eps        velocity = x0 - eps

a student takes nearly straight paths, for which few steps are enough (Liu et al., arXiv 2209.03003). With the states
x_i of a path at times t_i, h_i = t_{i+1} - t_i, the velocity along it and its chord are

    v_i = (x_{i+1} - x_i) / h_i         chord = (x_N - x_0) / (t_N - t_0)

    straightness = sum_i h_i mean (v_i - chord)^2 / (t_N - t_0)       0 for a straight path at constant speed
    curvature_i  = rms((v_i - v_{i-1}) / (t_{i+1/2} - t_{i-1/2}))     the acceleration; Euler errs by h^2 / 2 of it

``mean`` and ``rms`` run over the elements of one latent, so that neither depends on its size.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .grid import flow_grid
from .nfe import VelocityFn
from .solve import solve


class FlowPath(NamedTuple):
    """States along a path: flow times ``ts`` (N + 1,), float64, and ``states`` (N + 1, B, *)."""

    ts: Tensor
    states: Tensor

    @property
    def end(self) -> Tensor:
        """Where it leads, (B, *)."""
        return self.states[-1]


def follow(
    velocity_fn: VelocityFn,
    x: Tensor,
    ts: Tensor,
    method: str = "heun",
    on_step: Callable[[int], None] | None = None,
) -> FlowPath:
    """The path of x (B, *) under ``d x / d t = velocity_fn(t, x)``; raises what ``solve`` raises.

    Args:
        velocity_fn, x: as of ``solve``.
        ts: flow times, ascending, (N + 1,).
        method: one of ``METHODS``, one step per interval. on_step: called with the number of steps done.
    """
    ts = torch.as_tensor(ts, dtype=torch.float64)
    states = [x]
    for done, (start, end) in enumerate(pairwise(ts), 1):
        states.append(solve(velocity_fn, states[-1], torch.stack([start, end]), method))
        if on_step is not None:
            on_step(done)
    return FlowPath(ts, torch.stack(states))


def straightness(path: FlowPath) -> Tensor:
    """Mean squared difference between the velocity along a path and its chord; (B,), float32 or better."""
    velocity, steps = _velocities(path)
    chord = (steps * velocity).sum(0) / steps.sum()
    weight = steps.flatten() / steps.sum()
    return (weight[:, None] * (velocity - chord).square().flatten(2).mean(2)).sum(0)


def curvature(path: FlowPath) -> tuple[Tensor, Tensor]:
    """Inner times of a path, (N - 1,), and the curvature there, (N - 1, B); ValueError if it has a single step."""
    if len(path.ts) < 3:
        raise ValueError("the curvature of a path needs at least 2 steps, got 1; follow it in finer steps")
    velocity, steps = _velocities(path)
    acceleration = velocity.diff(dim=0) / ((steps[1:] + steps[:-1]) / 2)
    return path.ts[1:-1], acceleration.square().flatten(2).mean(2).sqrt()


def few_step_errors(
    velocity_fn: VelocityFn, x: Tensor, reference: Tensor, counts: Sequence[int] = (1, 2, 4, 8), t_start: float = 0.0
) -> Tensor:
    """Root mean square distance, (len(counts), B), of Euler's method in a few equal steps from a fine-step reference.

    Args:
        velocity_fn, x: as of ``solve``; x is the state at flow time ``t_start``, (B, *).
        reference: where the path leads, (B, *).
        counts: numbers of steps, which are the NFE.
    """
    ends = [solve(velocity_fn, x, flow_grid("uniform", count, t_start=t_start), "euler") for count in counts]
    return torch.stack([(end - reference).square().flatten(1).mean(1).sqrt() for end in ends])


def _velocities(path: FlowPath) -> tuple[Tensor, Tensor]:
    """Mean velocity of each step, (N, B, *), and the steps' lengths, shaped to multiply it."""
    states = path.states.to(torch.promote_types(path.states.dtype, torch.float32))
    steps = path.ts.diff().to(states).reshape(-1, *(1,) * (states.ndim - 1))
    return states.diff(dim=0) / steps, steps
