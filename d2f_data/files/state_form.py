"""Checks that a loaded training state has the form of a trainer's own, so that nothing is put where it does not fit."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def check_trainer_state(found: Any, like: Mapping[str, Any]) -> None:
    """Check the state of a trainer before it is loaded.

    Args:
        found: the loaded state.
        like: the state of a trainer of the same settings, at any step. Its optimizer may not have taken a step yet, so
            that of ``found`` is only checked for types that no optimizer keeps.

    Raises:
        ValueError: names the part that does not fit.
    """
    checked = {name: part for name, part in like.items() if name not in ("optimizer", "schedule")}
    check_fits(found, {**checked, "optimizer": {}}, "the trainer's state")
    for tensor in _tensors(found["optimizer"]):
        if not (tensor.is_floating_point() or tensor.dtype == torch.uint8):  # those of 8-bit optimizers
            raise ValueError(f"the optimizer's state has a tensor that is {_form(tensor)}, but must have floats")


def check_fits(found: Any, like: Any, where: str = "the state") -> None:
    """Check that a loaded state has the form of another one, so that it can be put into its place.

    Args:
        found: the loaded state.
        like: dicts, whose keys ``found`` must have; tensors, whose dtype and shape it must have; anything else, whose
            type it must have. None: anything.
        where: name of the state, for errors.

    Raises:
        ValueError: names the part that does not fit.
    """
    if isinstance(like, Mapping):
        if not isinstance(found, Mapping):
            raise ValueError(f"{where} is {_form(found)}, but must be a dict")
        missing = [key for key in like if key not in found]
        if missing:
            raise ValueError(f"{where} lacks {missing[0]!r}")
        for key, part in like.items():
            check_fits(found[key], part, f"{where}/{key}")
    elif isinstance(like, Tensor):
        if not isinstance(found, Tensor) or (found.dtype, found.shape) != (like.dtype, like.shape):
            raise ValueError(f"{where} is {_form(found)}, but must be {_form(like)}")
    elif like is not None and type(found) is not type(like):
        raise ValueError(f"{where} is {_form(found)}, but must be {_form(like)}")


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
