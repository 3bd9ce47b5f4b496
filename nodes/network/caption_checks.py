"""Captions that a network cannot be trained with, reported before the first step with the input that they came from."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..host import CAPTIONS_KEY, TrainingNetwork
from .conditionings import Entry, some_entries, text_entries

# End of the path of a layer that reads the text, in the networks of SD1.x, SD2.x and SDXL.
_READER = "attn2.to_k"


def text_width(module: nn.Module) -> int | None:
    """Size of the token embeddings that a network takes; None if it has no cross attention like SD's networks."""
    widths = (layer.in_features for path, layer in module.named_modules() if path.endswith(_READER))
    return next(widths, None)


def check_captions(entries: Iterable[Entry], module: nn.Module, what: str) -> None:
    """Check the captions of an input.

    Args:
        entries: one per caption; the same one may come several times.
        module: the network.
        what: name of the input, for error messages.

    Raises:
        ValueError: the captions are of another text encoder, or not finite; names the input and the caption.
    """
    width, seen = text_width(module), set[int]()
    for number, entry in enumerate(entries, 1):
        if id(entry) not in seen:
            seen.add(id(entry))
            _check(entry, width, f"conditioning {number} of '{what}'")


def _check(entry: Entry, width: int | None, which: str) -> None:
    cross, options = entry[0], entry[1]
    if width is not None and cross.shape[-1] != width:
        raise ValueError(
            f"{which} has token embeddings of size {cross.shape[-1]}, but this model takes {width}: it is from another "
            "model's text encoder; encode the captions with the CLIP of the checkpoint that is trained"
        )
    if not all(_is_finite(value) for value in (cross, options.get("pooled_output"))):
        raise ValueError(
            f"{which} holds NaN or infinite values; encode this caption again, with ComfyUI started with "
            "--fp32-text-enc or --bf16-text-enc"
        )


def _is_finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or bool(torch.isfinite(value).all())


def captions_of(network: TrainingNetwork, conditionings: Any, what: str) -> list[Entry]:
    """The entries of CONDITIONINGs whose texts a network learns from.

    Raises:
        ValueError: a CONDITIONING holds what only a sampler can use, is of another text encoder or not finite; names it
            and the input ``what``.
    """
    entries = text_entries(conditionings, what)
    every = [one for entry in entries for one in captions_of_entry(entry)]
    for _, options in every:
        network.check_caption(options, what)
    check_captions(every, network.module, what)
    return entries


def captions_of_entry(entry: Entry) -> list[Entry]:
    """All captions of an item: its entry, and those that Training Set from Folder has added to it."""
    return [entry, *entry[1].get(CAPTIONS_KEY, ())]


def null_caption(network: TrainingNetwork, negative: Any) -> Entry | None:
    """The entry of the empty prompt for dropped captions; None without one.

    Raises:
        ValueError: as ``captions_of``, or there is no entry.
    """
    if not negative:
        return None
    captions_of(network, negative, "negative")
    return some_entries(negative, "negative")[0]
