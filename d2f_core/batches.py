"""Batches: what the data of a training run gives, and in which order.

Items lie in groups of one shape each (aspect buckets). Every epoch takes each item once, in batches within the groups
and in an order that the seed and the epoch fix, so that batch number k of a run needs no memory of the ones before:

    epoch, position = divmod(k, batches per epoch)        order = permutation seeded by (seed, epoch)
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .loss import Interpolant
from .windows import virtual_pair


class Batch(NamedTuple):
    """What the data gives for some items: latents (B, *), condition, weights of spatial positions, and fixed noise."""

    x0: Tensor
    condition: Any
    mask: Tensor | None = None
    eps: Tensor | None = None
    """Noise coupled to x0 (reflow pairs); None draws it."""
    waypoints: Tensor | None = None
    """States between them at the edges of windows, (B, windows - 1, *), as of ``virtual_pair``; None for one window."""
    weight: Tensor | None = None
    """Of each item's loss, (B,); None is 1."""

    @property
    def windows(self) -> int:
        """Number of windows of the paths from eps to x0."""
        return 1 if self.waypoints is None else self.waypoints.shape[1] + 1

    def on_path(self, eps: Tensor, t: Tensor) -> Interpolant:
        """The pair of flow times (B,) on the paths from ``eps``, (B, *): a line to x0, or that of the window of t."""
        if self.waypoints is None:
            return Interpolant(self.x0, eps, t)
        eps, x0 = virtual_pair(eps, self.waypoints, self.x0, t)
        return Interpolant(x0, eps, t)


class TrainingData(Protocol):
    """Items in groups of one shape each."""

    groups: Sequence[Sequence[int]]

    def batch(self, items: Sequence[int], drop: Sequence[bool]) -> Batch:
        """The items, those with ``drop`` under their null condition."""


@runtime_checkable
class VariedData(TrainingData, Protocol):
    """Items that are not the same in every epoch, such as images with several captions."""

    def of_epoch(self, seed: int) -> TrainingData:
        """The items as one epoch has them, drawn from its seed."""


def in_epoch(data: TrainingData, seed: int, epoch: int) -> TrainingData:
    """The data of one epoch of a run with this seed; ``data`` itself if its items do not vary."""
    return data.of_epoch(derive_seed(seed, -epoch - 1)) if isinstance(data, VariedData) else data


class BatchOrder:
    """Which items are in which batch of a run: every epoch takes each item once, in an order of its own.

    The order of the epoch that was asked for last is kept; it depends on nothing but seed and epoch.

    Args:
        groups: items of one shape each.
        batch_size: most items in a batch; the last batch of a group may have fewer.
        seed: of the run.

    Raises:
        ValueError: there is no item.
    """

    def __init__(self, groups: Sequence[Sequence[int]], batch_size: int, seed: int) -> None:
        self.groups, self.batch_size, self.seed = groups, batch_size, seed
        ends = list(accumulate(-(-len(group) // batch_size) for group in groups))
        self.per_epoch = ends[-1] if ends else 0
        if not self.per_epoch:
            raise ValueError("the training set is empty; give it at least one item")
        self._ends, self._epoch = ends, -1
        self._orders: list[Tensor] = []  # of each group's items
        self._batches = torch.empty(0)  # order of the batches, which are numbered through all groups

    def items(self, index: int) -> list[int]:
        """Items of batch number ``index`` of the run."""
        epoch, position = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            self._draw(epoch)
        batch = int(self._batches[position])
        place = bisect_right(self._ends, batch)
        group, last = self.groups[place], self._ends[place]
        first = last - -(-len(group) // self.batch_size)
        start = (batch - first) * self.batch_size
        return [group[i] for i in self._orders[place][start : start + self.batch_size].tolist()]

    def _draw(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, -epoch - 1))
        self._orders = [torch.randperm(len(group), generator=generator) for group in self.groups]
        self._batches = torch.randperm(self.per_epoch, generator=generator)
        self._epoch = epoch


def derive_seed(seed: int, index: int) -> int:
    """A well spread 63 bit seed of two integers (the finaliser of splitmix64)."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1
