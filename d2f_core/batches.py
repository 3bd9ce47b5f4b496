"""Batches: what the data of a training run gives, and in which order.

Items lie in groups of one shape each (aspect buckets). Every epoch takes each item once, in batches within the groups
and in an order that the seed and the epoch fix, so that batch number k of a run needs no memory of the ones before:

    epoch, position = divmod(k, batches per epoch)        order = permutation seeded by (seed, epoch)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """What the data gives for some items: latents (B, *), condition, weights of spatial positions, and fixed noise."""

    x0: Tensor
    condition: Any
    mask: Tensor | None = None
    eps: Tensor | None = None
    """Noise coupled to x0 (reflow pairs); None draws it."""


class TrainingData(Protocol):
    """Items in groups of one shape each."""

    groups: Sequence[Sequence[int]]

    def batch(self, items: Sequence[int], drop: Sequence[bool]) -> Batch:
        """The items, those with ``drop`` under their null condition."""


def batch_items(groups: Sequence[Sequence[int]], batch_size: int, seed: int, index: int) -> list[int]:
    """Items of batch number ``index`` of a run: every epoch takes each item once, in an order of its own."""
    per_epoch = sum(-(-len(group) // batch_size) for group in groups)
    if not per_epoch:
        raise ValueError("the training set is empty; give it at least one item")
    epoch, position = divmod(index, per_epoch)
    generator = torch.Generator().manual_seed(derive_seed(seed, -epoch - 1))
    batches = []
    for group in groups:
        order = torch.randperm(len(group), generator=generator).tolist()
        batches += [[group[i] for i in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]
    return batches[torch.randperm(per_epoch, generator=generator)[position]]


def derive_seed(seed: int, index: int) -> int:
    """A well spread 63 bit seed of two integers (the finaliser of splitmix64)."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1
