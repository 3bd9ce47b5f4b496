"""Adapters: what is trained beside a frozen layer (Hu et al., arXiv 2106.09685).

    y = layer(x) + (alpha / rank) up(down(dropout(x)))        LowRankAdapter
    y = layer(x) + delta(x)                                   FullAdapter, delta a layer of the same shape
                                                              WidenedAdapter, the same with another form in the file

``down`` has the layer's kernel, stride and padding and ``rank`` outputs, ``up`` is 1 x 1. ``up`` and ``delta`` start at
zero, so that training starts at the model itself. The parameters are float32; arithmetic is in the dtype of x.
``file_tensors`` names them as the kohya format does.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# A linear or 2-D convolution layer: torch's, or a class of a host that has the same attributes.
Layer = Any


class Adapter(nn.Module):
    """What all adapters have; they know their layer only as strides and padding."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = conv_options(layer)

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer's own operation with another weight."""
        return operate(x, weight, bias, self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output, from the layer's input."""
        raise NotImplementedError

    def added(self, layer: Layer, x: Tensor, output: Tensor) -> Tensor:
        """The same where the layer itself and its output are at hand, which some kinds need."""
        return self(x)

    def file_tensors(self) -> dict[str, Tensor]:
        """Suffix in a LoRA file -> tensor."""
        raise NotImplementedError


class LowRankAdapter(Adapter):
    """``(alpha / rank) up(down(dropout(x)))`` for a linear or 2-D convolution layer.

    Parameters: ``down`` (rank, in, ...kernel), ``up`` (out, rank, ...1).
    """

    def __init__(self, layer: Layer, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__(layer)
        shape = layer.weight.shape
        device = layer.weight.device
        # Uniform with the variance of torch's default for a layer of this fan-in (kaiming, a = sqrt 5).
        bound = 1 / math.sqrt(layer.weight[0].numel())
        down = torch.rand(rank, *shape[1:], generator=generator) * 2 * bound - bound
        self.down = nn.Parameter(down.to(device))
        self.up = nn.Parameter(torch.zeros(shape[0], rank, *(1,) * (len(shape) - 2), device=device))
        self.alpha, self.rank, self.dropout = alpha, rank, dropout

    @classmethod
    def of(cls, layer: Layer, down: Tensor, up: Tensor, alpha: float, dropout: float) -> "LowRankAdapter":
        """One that starts at the factors of a file, ``down`` (rank, in, *) and ``up`` (out, rank, *)."""
        adapter = cls(layer, len(down), alpha, dropout, torch.Generator())
        adapter.fill(down, up)
        return adapter

    @torch.no_grad()
    def fill(self, down: Tensor, up: Tensor) -> None:
        """Take the values of factors of a file."""
        self.down.copy_(down.reshape(self.down.shape))
        self.up.copy_(up.reshape(self.up.shape))

    def forward(self, x: Tensor) -> Tensor:
        if self.dropout and self.training:
            x = functional.dropout(x, self.dropout)
        hidden = self.apply_weight(x, self.down.to(x.dtype))
        up = (self.up if self.alpha == self.rank else self.alpha / self.rank * self.up).to(x.dtype)
        return functional.linear(hidden, up) if self.conv is None else functional.conv2d(hidden, up)

    def file_tensors(self) -> dict[str, Tensor]:
        """``lora_down.weight``, ``lora_up.weight`` in the shapes of the parameters, and ``alpha``, ()."""
        return {
            "lora_down.weight": self.down.detach(),
            "lora_up.weight": self.up.detach(),
            "alpha": torch.tensor(float(self.alpha)),
        }

    def weight_delta(self) -> Tensor:
        """What the adapter adds to the layer's weight, in the weight's shape."""
        delta = self.up.flatten(1) @ self.down.flatten(1)
        return (self.alpha / self.rank) * delta.view(self.up.shape[0], *self.down.shape[1:])


class FullAdapter(Adapter):
    """A full difference of weight and bias, ``diff`` and ``diff_b``, of zero at the start."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.diff = nn.Parameter(torch.zeros_like(layer.weight, dtype=torch.float32))
        has_bias = layer.bias is not None
        self.diff_b = nn.Parameter(torch.zeros_like(layer.bias, dtype=torch.float32)) if has_bias else None

    @classmethod
    def of(cls, layer: Layer, diff: Tensor, diff_b: Tensor | None = None) -> "FullAdapter":
        """One that starts at a difference; input channels that ``diff`` (out, in, *) lacks start at zero."""
        adapter = cls(layer)
        with torch.no_grad():
            adapter.diff[:, : diff.shape[1]] = diff.to(adapter.diff)
            if diff_b is not None and adapter.diff_b is not None:
                adapter.diff_b.copy_(diff_b)
        return adapter

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.diff_b is None else self.diff_b.to(x.dtype)
        return self.apply_weight(x, self.diff.to(x.dtype), bias)

    def file_tensors(self) -> dict[str, Tensor]:
        """``diff`` and, where the layer has a bias, ``diff_b``."""
        return {"diff": self.diff.detach(), **({} if self.diff_b is None else {"diff_b": self.diff_b.detach()})}


class WidenedAdapter(FullAdapter):
    """A full difference of a convolution that has more channels here than in the checkpoint.

    Loaders can add a plain ``diff`` only to a weight of its own shape. The same difference as a low-rank product of
    full rank, with ``reshape_weight``, makes them pad the checkpoint's weight with zeros first.
    """

    def file_tensors(self) -> dict[str, Tensor]:
        """``lora_down.weight``, ``lora_up.weight`` and ``alpha`` whose product is the difference, one factor the unit
        matrix; ``reshape_weight`` (4,), the shape of the wide weight; ``diff_b`` where there is a bias."""
        diff = self.diff.detach()
        flat, kernel = diff.flatten(1), diff.shape[1:]
        rank = min(flat.shape)
        unit = torch.eye(rank, device=diff.device)
        up, down = (unit, flat) if rank == len(flat) else (flat, unit)
        return {
            "lora_down.weight": down.reshape(rank, *kernel).contiguous(),
            "lora_up.weight": up.reshape(len(diff), rank, 1, 1).contiguous(),
            "alpha": torch.tensor(float(rank)),
            "reshape_weight": torch.tensor(diff.shape),
            **({} if self.diff_b is None else {"diff_b": self.diff_b.detach()}),
        }


def is_conv(layer: Layer) -> bool:
    """Whether a layer is a 2-D convolution, also of a class that only behaves like one."""
    weight = getattr(layer, "weight", None)
    return isinstance(layer, nn.Conv2d) or (weight is not None and weight.ndim == 4 and hasattr(layer, "stride"))


def is_linear(layer: Layer) -> bool:
    """Whether a layer is linear, also of a class that only behaves like one."""
    return isinstance(layer, nn.Linear) or hasattr(layer, "in_features")


def conv_options(layer: Layer) -> dict[str, Any] | None:
    """Stride, padding, dilation and groups of a convolution; None of a linear layer."""
    if not is_conv(layer):
        return None
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}


def operate(x: Tensor, weight: Tensor, bias: Tensor | None, conv: Mapping[str, Any] | None) -> Tensor:
    """The operation of a layer with the given ``conv_options``."""
    if conv is None:
        return functional.linear(x, weight, bias)
    return functional.conv2d(x, weight, bias, **conv)


class AdapterSlot:
    """A place for an adapter on a layer whose hooks must not change, because it is compiled.

    Attributes:
        adapter: what is on the layer now; None for nothing.
    """

    def __init__(self) -> None:
        self.adapter: Adapter | None = None

    @staticmethod
    def put(layer: Layer) -> None:
        """Give a layer its slot."""
        slot = AdapterSlot()

        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output if slot.adapter is None else _added(slot.adapter, layer, inputs, output)

        layer.register_forward_hook(hook)
        setattr(layer, _SLOT, slot)

    @contextmanager
    def filled(self, adapter: Adapter) -> Iterator[None]:
        """The slot with an adapter; the one of before is back afterwards."""
        before, self.adapter = self.adapter, adapter
        try:
            yield
        finally:
            self.adapter = before


_SLOT = "_adapter_slot"


def is_compiled(layer: Layer) -> bool:
    """Whether a layer is part of what is compiled, and so has a slot."""
    return _SLOT in vars(layer)


@contextmanager
def hooked(pairs: Iterable[tuple[Layer, Adapter]]) -> Iterator[None]:
    """Layers with their adapters on; leaving the block takes them off, after an error, too."""

    def hook(adapter: Adapter) -> Any:
        return lambda layer, inputs, output: _added(adapter, layer, inputs, output)

    with ExitStack() as stack:
        for layer, adapter in pairs:
            slot = vars(layer).get(_SLOT)
            if slot is not None:
                stack.enter_context(slot.filled(adapter))
            else:
                stack.callback(layer.register_forward_hook(hook(adapter)).remove)
        yield


def _added(adapter: Adapter, layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + adapter.added(layer, inputs[0], output).to(output.dtype)


def attached(network: nn.Module, adapters: Mapping[str, Adapter]) -> AbstractContextManager[None]:
    """The network with its adapters on: path of a layer -> adapter."""
    return hooked([(network.get_submodule(path), adapter) for path, adapter in adapters.items()])
