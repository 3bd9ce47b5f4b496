"""CONDITIONINGs split into entries of one text each, and the network's conditioning kwargs joined into batches."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..host import BatchCondition, Condition
from .text_condition import TextBatch, TextCondition

Entry = list[Any]  # [cross attention (1, L, D), options]

# Texts are repeated to a common length of at most this many times the shortest, as in the host; for networks with
# cross attention, which does not notice it. Where texts and image attend to each other (SD3, Flux), lengths must agree.
MOST_REPEATS = 4


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


def text_entries(conditionings: Any, what: str) -> list[Entry]:
    """The entries of CONDITIONINGs that hold one text each, or one batch of texts.

    Raises:
        ValueError: several are combined in one CONDITIONING; names the input ``what``.
    """
    for conditioning in conditionings:
        if len(conditioning) > 1:
            raise ValueError(
                f"'{what}' holds a conditioning of {len(conditioning)} entries, which a sampler combines into one "
                "prediction (Conditioning (Combine)) and training cannot; connect the conditioning of one text, or a "
                "list of conditionings for several captions"
            )
    return entries_of(conditionings)


def some_entries(conditionings: Any, what: str) -> list[Entry]:
    """As ``text_entries``, at least one.

    Raises:
        ValueError: there is no entry, or several are combined; names the input ``what``.
    """
    entries = text_entries(conditionings, what)
    if not entries:
        prompt = "an empty prompt" if what == "negative" else "a prompt"
        raise ValueError(f"'{what}' is an empty conditioning; connect the conditioning of {prompt}")
    return entries


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


def join(conditions: Sequence[Condition], repeat: bool = True) -> BatchCondition | TextBatch:
    """Conditioning kwargs of items, joined into a batch.

    As in the host, shorter texts are repeated to a common length, and those whose common length would be more than
    ``MOST_REPEATS`` times the shortest go into calls of their own. Texts that are encoded in the call stay apart.

    Args:
        conditions: one per item.
        repeat: whether texts may be repeated; otherwise those of other lengths go into calls of their own.

    Raises:
        ValueError: the items have different kinds of conditioning.
    """
    texts = [condition for condition in conditions if isinstance(condition, TextCondition)]
    if texts and len(texts) == len(conditions):
        return TextBatch(texts)
    if any(condition.keys() != conditions[0].keys() for condition in conditions):
        kinds = sorted({", ".join(condition) for condition in conditions})
        raise ValueError(f"the conditionings differ in kind ({' | '.join(kinds)}); encode all captions in the same way")
    groups: list[list[int]] = []
    most = MOST_REPEATS if repeat else 1
    for row in range(len(conditions)):
        group = next((one for one in groups if _fit([conditions[i] for i in (*one, row)], most)), None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    calls = [(group, _joined([conditions[row] for row in group])) for group in groups]
    return calls[0][1] if len(calls) == 1 else calls


def _fit(conditions: Sequence[Condition], most: int) -> bool:
    """Whether texts of a common length are at most ``most`` times as long as the shortest."""
    lengths = [{_length(condition[name]) for condition in conditions} for name in conditions[0]]
    return all(math.lcm(*each) <= most * min(each) for each in lengths)


def _length(value: Tensor) -> int:
    """Length of a text (1, L, D); 1 for a number of each item."""
    return value.shape[1] if value.ndim > 1 else 1


def _joined(conditions: Sequence[Condition]) -> Condition:
    """Conditioning kwargs (B, ...) of items that fit together."""
    joined = {}
    for name in conditions[0]:
        values = [condition[name] for condition in conditions]
        length = math.lcm(*map(_length, values))
        same = [value if _length(value) == length else value.repeat(1, length // _length(value), 1) for value in values]
        joined[name] = torch.cat(same)
    return joined
