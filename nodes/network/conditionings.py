"""CONDITIONINGs split into entries of one text each, and the network's conditioning kwargs joined into batches."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..host import Condition

Entry = list[Any]  # [cross attention (1, L, D), options]


def entries_of(conditionings: Any) -> list[Entry]:
    """The entries of CONDITIONINGs; an entry with a batch of texts is split."""
    found: list[Entry] = []
    for conditioning in conditionings:
        for cross, options in conditioning:
            if len(cross) == 1:
                found.append([cross, options])
                continue
            for row in range(len(cross)):
                own = {k: v[row : row + 1] if _is_batch(v, len(cross)) else v for k, v in options.items()}
                found.append([cross[row : row + 1], own])
    return found


def some_entries(conditionings: Any, what: str) -> list[Entry]:
    """The entries of CONDITIONINGs.

    Raises:
        ValueError: there is no entry; names the input ``what``.
    """
    entries = entries_of(conditionings)
    if not entries:
        prompt = "an empty prompt" if what == "negative" else "a prompt"
        raise ValueError(f"'{what}' is an empty conditioning; connect the conditioning of {prompt}")
    return entries


def first_entry(conditionings: Any, what: str) -> Entry:
    """The first of ``some_entries``."""
    return some_entries(conditionings, what)[0]


def _is_batch(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1 and len(value) == count


def entries_for(entries: list[Entry], sizes: Sequence[int], what: str) -> list[Entry]:
    """One entry per item, for latents with these numbers of items.

    Raises:
        ValueError: the numbers do not fit; names the input ``what`` of the latents.
    """
    if len(entries) == 1:
        return entries * sum(sizes)
    if len(entries) == sum(sizes):
        return entries
    if len(entries) == len(sizes):
        return [entry for entry, size in zip(entries, sizes) for _ in range(size)]
    raise ValueError(
        f"'{what}' has {sum(sizes)} items in {len(sizes)} latents but {len(entries)} conditionings; give one for all, "
        "one per item or one per latent"
    )


def join(conditions: Sequence[Condition]) -> Condition:
    """Conditioning kwargs of items, joined into a batch; shorter texts are repeated to a common length, as in the host.

    Raises:
        ValueError: the items have different kinds of conditioning.
    """
    if any(condition.keys() != conditions[0].keys() for condition in conditions):
        kinds = sorted({", ".join(condition) for condition in conditions})
        raise ValueError(f"the conditionings differ in kind ({' | '.join(kinds)}); encode all captions in the same way")
    joined = {}
    for name in conditions[0]:
        values = [condition[name] for condition in conditions]
        length = math.lcm(*(value.shape[1] for value in values))
        same = [value if value.shape[1] == length else value.repeat(1, length // value.shape[1], 1) for value in values]
        joined[name] = torch.cat(same)
    return joined
