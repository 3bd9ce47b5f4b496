"""Conditioning of texts whose encoders are in training: encoded anew in each call of the network.

Until then it is what the frozen encoders make of the text, with which shapes are checked and runs are identified.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..host import Condition


class TextCondition(dict[str, Tensor]):
    """Conditioning kwargs of one item that know the entry of the CONDITIONING that they come from.

    Attributes:
        entry: [cross attention, options], which name the text.
        shape: of the latents, (C, h, w).
    """

    def __init__(self, kwargs: Condition, entry: Sequence[Any], shape: Sequence[int]) -> None:
        super().__init__(kwargs)
        self.entry, self.shape = entry, tuple(shape)


class TextBatch(list[TextCondition]):
    """Those of a batch, one per item."""


def merged(condition: Condition, more: Condition) -> Condition:
    """Conditioning kwargs with further ones, which may be none."""
    if isinstance(condition, TextCondition) and more:
        return TextCondition({**condition, **more}, condition.entry, condition.shape)
    return {**condition, **more} if more else condition


def of_batch(condition: Any, size: int) -> Any:
    """Conditioning kwargs (1, ...) repeated for a batch; those of a batch as they are."""
    if isinstance(condition, TextCondition):
        return TextBatch([condition] * size)
    if not isinstance(condition, Mapping):
        return condition
    return {name: value.expand(size, *value.shape[1:]) for name, value in condition.items()}
