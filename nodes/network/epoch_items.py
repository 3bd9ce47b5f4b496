"""Items with several captions, as one epoch has them: caption number = hash of (seed of the epoch, item) mod count."""

from collections.abc import Sequence
from typing import Any, Protocol

from ...d2f_core import Batch, derive_seed


class CaptionedItems(Protocol):
    """Training items that can be had under each of their captions."""

    groups: Any

    def batch(self, items: Sequence[int], drop: Sequence[bool], captions: Sequence[int] | None = None) -> Batch: ...


class EpochItems:
    """Training items of one epoch; they implement ``d2f_core.TrainingData``.

    Args:
        items: the items of all epochs.
        counts: number of captions of each item.
        seed: of the epoch.
    """

    def __init__(self, items: CaptionedItems, counts: Sequence[int], seed: int) -> None:
        self.items, self.counts, self.seed = items, counts, seed
        self.groups = items.groups

    def caption(self, item: int) -> int:
        """Number of the caption that an item has in this epoch."""
        return derive_seed(self.seed, item) % self.counts[item]

    def batch(self, items: Sequence[int], drop: Sequence[bool]) -> Batch:
        """Items of one group under the captions of this epoch, those with ``drop`` under the null condition."""
        return self.items.batch(items, drop, [self.caption(item) for item in items])
