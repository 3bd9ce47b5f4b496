"""A device without float64 and with a price on waiting, played by tensors on the CPU or on torch's meta device.

Taken to be on it are tensors on the meta device, latents and images (3 and more dimensions), and all that is computed
from such; what is moved to the CPU by name is not. Like Apple's GPUs it has no float64, so that every operation that
takes or makes one there is refused.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
COPIES = {"aten::_to_copy", "aten::copy_"}


class FakeDevice(TorchDispatchMode):
    """Refuses float64 on the device, and with ``waits=False`` to look at a value there; counts what runs there.

    Attributes:
        kernels: names of the operations so far that compute; views are not among them.
        total: number of all operations so far, with views.
    """

    def __init__(self, waits: bool = True) -> None:
        super().__init__()
        self.waits = waits
        self.kernels: list[str] = []
        self.total = 0
        self._there = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = any(map(self._is_there, taken))
        if there and not self.waits and name in WAITS:
            raise AssertionError(f"{name} waits for the device")
        made = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        moved = str(kwargs.get("device")) == "cpu"
        if (there and not moved) or any(map(self._is_there, results)):
            copied = name in COPIES  # the CPU makes float32 of float64 before it goes over
            self._count(
                func, name, [one for one in taken if self._is_there(one) or (one.ndim and not copied)] + results
            )
            for result in results:
                self._there[result] = True
        return made

    def _is_there(self, tensor: Tensor) -> bool:
        return tensor.device.type == "meta" or tensor.ndim > 2 or tensor in self._there

    def _count(self, func: Any, name: str, tensors: list[Tensor]) -> None:
        if any(tensor.dtype == torch.float64 for tensor in tensors):
            raise TypeError(f"{name}: the device has no float64")
        self.total += 1
        if not func.is_view:
            self.kernels.append(name)
