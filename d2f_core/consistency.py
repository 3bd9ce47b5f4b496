"""Consistency: a finish for one and two steps, on the paths of reflow pairs.

A student whose path from the noise is not yet straight errs where its first step is longest. At any t it foretells the
end of the path, and it does so better later on the path, where more of the end is seen already. So it learns at t what
the average of its own weights says at t' > t on the same path (Song et al., arXiv 2303.01469; as a finish of reflow:
Wang et al., Rectified Diffusion, arXiv 2410.07303):

    end(x, t) = x + (1 - t) velocity(x, t)      end_student(x_t, t)  ~  end_average(x_t', t')      end(x, 1) = x

The last identity anchors all of it at the pair's own x0. This is the loss of reflow on a virtual pair, the line that
goes through x_t at t and leads to that end,

    x0* = end_average(x_t', t')      eps* = (x_t - t x0*) / (1 - t)      x0* - eps* = (x0* - x_t) / (1 - t)
"""

import torch
from torch import Tensor

from .loss import Interpolant
from .time_map import FlowTime, per_item

# Least 1 - t of a line's point: its velocity is a difference divided by it.
_LEAST_REST = 1e-3


def later_times(t: Tensor, generator: torch.Generator) -> Tensor:
    """Flow times t' in (t, 1], uniform in what is left of the path; shape and dtype of t, on the CPU."""
    return 1 - (1 - t) * torch.rand(t.shape, generator=generator, dtype=t.dtype)


def line_to(end: Tensor, pair: Interpolant) -> Interpolant:
    """The virtual pair whose line goes through the state of a pair and leads to ``end``, (B, *)."""
    rest = per_item(FlowTime.of(pair.t, end).s.clamp(min=_LEAST_REST), end)
    velocity = (end - pair.x_fm) / rest
    return Interpolant(pair.x_fm + rest * velocity, pair.x_fm - (1 - rest) * velocity, pair.t)
