"""A device without float64, on which waiting has a price, played by tensors on the CPU or on torch's meta device.

Taken to be on it are tensors on the meta device, latents and images (3 and more dimensions), and all that is computed
from such, until `.cpu()` or `.to("cpu")` moves it away. Like Apple's GPUs it refuses every operation that takes or
makes float64; so `.to("cpu", torch.float64)` is refused, too, which converts before it moves.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
COPIES = {"aten::to", "aten::_to_copy", "aten::copy_"}


class FakeDevice(TorchDispatchMode):
    """Refuses float64 on the device, and with ``waits=False`` to look at a value there; counts what runs there.

    Attributes:
        kernels: names of the operations so far that compute; views are not among them.
        total: number of all operations so far, with views.
        lists: how many values each list had that was made of a tensor there, which is a wait.
    """

    def __init__(self, waits: bool = True) -> None:
        super().__init__()
        self.waits = waits
        self.kernels: list[str] = []
        self.total = 0
        self.lists: list[int] = []
        self._there = WeakIdKeyDictionary()
        self._moves = _Moves(self)

    def __enter__(self) -> "FakeDevice":
        self._moves.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._moves.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = any(map(self._is_there, taken))
        if there and not self.waits and name in WAITS:
            raise AssertionError(f"{name} waits for the device")
        made = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        if there or (not self._were_moved(taken) and any(map(self._is_there, results))):
            copied = name in COPIES  # the CPU makes float32 of float64 before it goes over
            mixed = [one for one in taken if self._is_there(one) or (one.ndim and not copied)]
            self._count(func, name, mixed + results)
            self._put(results, True)
        elif self._were_moved(taken):
            self._put(results, False)
        return made

    def bring(self, tensor: Tensor) -> None:
        """Let a tensor be on the device."""
        self._put([tensor], True)

    def take_away(self, tensor: Tensor) -> Tensor:
        """The tensor as one on the CPU."""
        away = tensor.clone()
        self._put([away], False)
        return away

    def _is_there(self, tensor: Tensor) -> bool:
        return bool(self._there.get(tensor, tensor.device.type == "meta" or tensor.ndim > 2))

    def _were_moved(self, tensors: list[Tensor]) -> bool:
        return any(self._there.get(tensor) is False for tensor in tensors)

    def _put(self, tensors: list[Tensor], there: bool) -> None:
        for tensor in tensors:
            self._there[tensor] = there

    def _count(self, func: Any, name: str, tensors: list[Tensor]) -> None:
        if any(tensor.dtype == torch.float64 for tensor in tensors):
            raise TypeError(f"{name}: the device has no float64")
        self.total += 1
        if not func.is_view:
            self.kernels.append(name)


class _Moves(TorchFunctionMode):
    """Sees moves to the CPU, of which torch makes nothing where the tensor is there in fact."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "tolist" and self.device._is_there(args[0]):
            self.device.lists.append(args[0].numel())
        made = func(*args, **(kwargs or {}))
        moved = name == "cpu" or (name == "to" and len(args) == 2 and not kwargs and str(args[1]) == "cpu")
        return self.device.take_away(made) if moved else made
