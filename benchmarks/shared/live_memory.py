"""Bytes of tensors that are alive on a device, and the most there were, counted as they are made and freed.

On torch's meta device, which has shapes and no values, this is what a run of a network of any size would take.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts while it is in force; what was there before does not count.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = {id(one.untyped_storage()) for one in tree_leaves((args, kwargs)) if type(one) is Tensor}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device.type:
                self.add(leaf, given)
        return made

    def add(self, tensor: Tensor, given: set[int] = frozenset()) -> None:
        """Count a tensor, unless its memory is known or belongs to what an operation was given."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known or key in given:
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
