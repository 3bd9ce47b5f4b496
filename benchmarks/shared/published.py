"""The time map of the published code (CompVis/diff2flow, commit 33239aa), as a control; written from its description.

It counts the rows of a table whose row 0 is the clean image,

    alpha = 1, alpha_0, .., alpha_T-1      sigma = 0, sigma_0, .., sigma_T-1      tau_i = alpha_i / (alpha_i + sigma_i)

finds the place i of a flow time among the tau, linearly between two rows, and

    timestep = i                     though row i of this table is the network's row i - 1
    x_dm     = x_fm (alpha + sigma)  of this table, linear between rows
    reads the output with alpha and sigma of place i in the *network's* table of T rows, each linear on its own:
             of eps 1 / alpha and sigma / alpha, of v alpha and sigma

Below t_min = tau_T an index of -1 wraps around, and the place is T + 1 - (1 - t) / (1 - t_min). At t = 1 it has no
answer. Its zero terminal SNR, which it forces on models without one, and its setting of NaN to 0 are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from diff2flow_kit.d2f_core import FlowAlignment, FlowTime, per_item


def _tables_of_eps(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return 1 / alpha, sigma / alpha


def _read_eps(a: Tensor, b: Tensor, x: Tensor, output: Tensor) -> Tensor:
    return (a * x - b * output) - output


def _tables_of_v(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return alpha, sigma


def _read_v(a: Tensor, b: Tensor, x: Tensor, output: Tensor) -> Tensor:
    return (a * x - b * output) - (a * output + b * x)


_READ: Mapping[str, tuple[Callable, Callable]] = MappingProxyType(
    {"eps": (_tables_of_eps, _read_eps), "v": (_tables_of_v, _read_v)}
)
"""Prediction -> the two tables that it interpolates, and (their values, x_dm, output) -> velocity."""


class PublishedTimeMap:
    """What a velocity field needs of an alignment, by the published map; t in [0, 1).

    Args:
        alignment: the network's own schedule and prediction type, eps or v.
    """

    def __init__(self, alignment: FlowAlignment) -> None:
        sigma_ve = alignment.schedule.sigma_ve
        alpha = (1 + sigma_ve**2).rsqrt()
        tables, self._read = _READ[alignment.prediction]
        self._answer = torch.stack(tables(alpha, sigma_ve * alpha))  # (2, T)
        full_alpha = torch.cat([alpha.new_ones(1), alpha])
        full_sigma = torch.cat([alpha.new_zeros(1), sigma_ve * alpha])
        self._tau, self._scale = full_alpha / (full_alpha + full_sigma), full_alpha + full_sigma  # (T + 1,)

    def timestep(self, t: FlowTime) -> Tensor:
        """Place of a flow time in the table of T + 1 rows, float64."""
        last, value = len(self._tau) - 1, t.t.double()
        below = self._tau.flip(0)
        right = torch.searchsorted(below, value, right=True).clamp(max=last)
        left_value = below[right - 1]  # of index 0: the clean image, at the other end
        place = (right - 1) + (value - left_value) / (below[right] - left_value)
        return last - place

    def to_diffusion(self, x_fm: Tensor, t: FlowTime) -> Tensor:
        """The network's input, (B, *)."""
        return (x_fm * per_item(_linear(self._scale, self.timestep(t)), x_fm)).to(x_fm.dtype)

    def velocity(self, output: Tensor, x_fm: Tensor, t: FlowTime) -> Tensor:
        """``x0 - eps`` as it reads it, (B, *)."""
        place = self.timestep(t).clamp(0, self._answer.shape[1] - 1)
        a, b = (per_item(_linear(table, place), x_fm) for table in self._answer)
        return self._read(a, b, self.to_diffusion(x_fm, t), output).to(x_fm.dtype)


def _linear(table: Tensor, place: Tensor) -> Tensor:
    row = place.floor().long().clamp(0, len(table) - 2)
    return torch.lerp(table[row], table[row + 1], place - row)
