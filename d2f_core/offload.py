"""Weights that stay in the main memory and come to the device just before they are used.

    fetch(w_k)        w_k is there already, and w_(k+1), w_(k+2), ... are on their way

The order of use in a call of the network, forward and backward, is that of the call before, so what comes next is known
after the first. On CUDA weights are pinned, and copied in a stream of their own while the device computes; a fetch
makes the computing stream, not the program, wait for its copy. The last ones used stay a while, as a block that is
computed again in the backward pass needs them twice. Values are copied, so nothing is rounded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

MB = 1 << 20
CPU = torch.device("cpu")


class Offload:
    """Weights in the main memory, and a few of them on a device.

    Args:
        device: where they are used.
        ahead: bytes that are on their way before they are asked for.
        room: bytes on the device altogether, at least twice ``ahead``; a weight that is larger alone still comes.
    """

    def __init__(self, device: torch.device, ahead: int = 128 * MB, room: int = 384 * MB) -> None:
        self.device, self.ahead, self.room = device, ahead, room
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._there: dict[int, tuple[Tensor, Any]] = {}  # by id of the weight, the one used last at the end
        self._size = 0  # of all that is there
        self._homes: dict[int, Tensor] = {}
        self._sizes: dict[int, int] = {}
        self._order: list[int] = []  # ids of the weights used in the call before
        self._used: list[int] = []  # and in this one
        self._next = self._pending = 0  # what of that order is brought next, and bytes brought that are not used yet

    def keep(self, layer: nn.Module) -> None:
        """Keep the weight of a layer of our own network in the main memory, pinned where that helps."""
        weight = layer._parameters["weight"]
        assert weight is not None
        home = weight.detach().to(CPU)
        if self._stream is not None:
            home = _of_parts(home, _pinned)
        layer._parameters["weight"] = kept = nn.Parameter(home, requires_grad=False)
        self._homes[id(kept)] = kept
        self._sizes[id(kept)] = size_of(kept)

    def watch(self, network: nn.Module) -> None:
        """Have every call of a network of our own announced; the order of use is one of calls."""
        network.register_forward_pre_hook(lambda *_: self._begin())

    def fetch(self, weight: Tensor) -> Tensor:
        """A weight on the device; what comes after it is on its way."""
        copy, arrived = self._bring(id(weight))
        if arrived is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(arrived)
            for part in _parts(copy):
                part.record_stream(stream)  # its memory is not given away before the stream is done with it
        self._used.append(id(weight))
        self._bring_ahead()
        self._make_room()
        return copy

    def _begin(self) -> None:
        if self._order[: len(self._used)] != self._used:
            self._order = self._used
        self._used, self._next, self._pending = [], 0, 0

    def _bring_ahead(self) -> None:
        """Begin with what is used next, as far as it should be on its way."""
        at, now = len(self._used), self._used[-1]
        if self._next >= at:
            self._pending -= self._sizes[now]
        else:
            self._next, self._pending = at, 0
        if self._order[at - 1 : at] != [now]:
            self._next, self._pending = at, 0
            return
        while self._next < len(self._order):
            key = self._order[self._next]
            if self._pending + self._sizes[key] > self.ahead:
                return
            self._bring(key)
            self._next, self._pending = self._next + 1, self._pending + self._sizes[key]

    def _bring(self, key: int) -> tuple[Tensor, Any]:
        """The copy on the device and the event of its arrival; begun now if it is not there."""
        found = self._there.pop(key, None)
        if found is None:
            found = self._copy(self._homes[key])
            self._size += self._sizes[key]
        self._there[key] = found
        return found

    def _copy(self, weight: Tensor) -> tuple[Tensor, Any]:
        if self._stream is None:
            return weight.to(self.device), None
        with torch.cuda.stream(self._stream):
            return weight.to(self.device, non_blocking=True), self._stream.record_event()

    def _make_room(self) -> None:
        """Let those go that were used longest ago."""
        while self._size > self.room and len(self._there) > 1:
            oldest = next(iter(self._there))
            del self._there[oldest]
            self._size -= self._sizes[oldest]


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor, or of those that it wraps."""
    return sum(part.numel() * part.element_size() for part in _parts(tensor))


def _pinned(tensor: Tensor) -> Tensor:
    try:
        return tensor.pin_memory()
    except RuntimeError:  # the system pins no more; copies from there are slower, and right
        return tensor


def _parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that one wraps, such as those of a quantized weight; itself if it wraps none."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    return [part for name in tensor.__tensor_flatten__()[0] for part in _parts(getattr(tensor, name))]


def _of_parts(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A tensor with all that it wraps changed."""
    if not is_traceable_wrapper_subclass(tensor):
        return change(tensor)
    names, context = tensor.__tensor_flatten__()
    inner = {name: _of_parts(getattr(tensor, name), change) for name in names}
    return type(tensor).__tensor_unflatten__(inner, context, tensor.shape, tensor.stride())
