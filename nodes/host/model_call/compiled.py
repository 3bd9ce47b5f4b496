"""``torch.compile`` for the blocks of a network in training, where it works; else a sentence about it.

The host tells each block where in the network it is, for patches that ask. A graph is made for one place, so that
blocks with equal layers can share one only if they are not told.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ....d2f_core import compile_blocks, compiler_fault

_OPTIONS = "transformer_options"
_PATCHES = ("patches", "patches_replace")
_WITHOUT_PATCHES = ("optimized_attention_override",)
"""What blocks use of ``transformer_options`` when there are no patches."""


def compiler(device: torch.device, remarks: list[str]) -> Callable[[list[nn.Module]], None] | None:
    """What compiles the blocks of a frozen copy; None where nothing can be compiled.

    Args:
        device: where the network computes.
        remarks: gets a line about what is not compiled.
    """
    fault = compiler_fault(device)
    if fault is None:
        return partial(compile_blocks, tell=remarks.append, arguments=_arguments)
    remarks.append(f"not compiled, because torch.compile does not work here: {fault}")
    return None


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a block without what only patches ask for, if there are none."""
    options = given.get(_OPTIONS)
    if not isinstance(options, dict) or any(options.get(name) for name in _PATCHES):
        return dict(given)
    return {**given, _OPTIONS: {name: options[name] for name in _WITHOUT_PATCHES if name in options}}
