"""Low-rank adapters beside the frozen layers of a network (Hu et al., arXiv 2106.09685).

    y = layer(x) + (alpha / rank) up(down(dropout(x)))

``down`` has the layer's kernel, stride and padding and ``rank`` outputs, ``up`` is 1 x 1 and starts at zero. The
first and last convolution of a network can be trained in full instead,

    y = layer(x) + delta(x)        delta a layer of the same shape that starts at zero.

Both live on the forward side: a hook adds their output, so the network's weights are neither copied nor
touched, and the memory of training is that of the adapters. ``attached`` is the only way to put hooks on, and it
takes them off whatever happens.
"""

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# A linear or 2-D convolution layer: torch's, or a class of a host that has the same attributes.
Layer = Any

_ATTENTION = ("*.to_q", "*.to_k", "*.to_v")

TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "attention": (*_ATTENTION, "*.to_out.0"),
        "attention_and_conv": (*_ATTENTION, "conv:*"),
        "all": ("linear:*", "conv:*"),
    }
)
"""Preset -> patterns of module paths; ``attention_and_conv`` is the paper's choice."""


@dataclass(frozen=True)
class AdapterSettings:
    """Which layers get adapters, and how large.

    Attributes:
        targets: name of a preset of ``TARGETS``, or patterns separated by commas or spaces. A pattern is matched
            against module paths with * and ?, and may begin with ``linear:`` or ``conv:``.
        rank: rank of every adapter; never more than the layer allows.
        rank_ratio: if above 0, rank = ceil(rank_ratio * max(in, out)) instead (0.2 in the paper).
        alpha: scale alpha / rank; None for alpha = rank.
        dropout: probability that an input value of an adapter is dropped in training.
        full_ends: train the first and the last convolution in full, as the paper does.
    """

    targets: str = "attention_and_conv"
    rank: int = 16
    rank_ratio: float = 0.0
    alpha: float | None = None
    dropout: float = 0.0
    full_ends: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"the rank of an adapter must be at least 1, got {self.rank}; 8 to 64 is usual")
        if not 0 <= self.rank_ratio <= 1:
            raise ValueError(f"rank_ratio must be in [0, 1], got {self.rank_ratio}; 0 uses the rank")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}; 0 switches it off")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}; leave it out for alpha = rank")

    def patterns(self) -> Sequence[str]:
        """The patterns behind ``targets``."""
        return TARGETS.get(self.targets) or self.targets.replace(",", " ").split()

    def rank_of(self, layer: Layer) -> int:
        """Rank of the adapter of a layer, at most that of its weight."""
        out_size, in_size = layer.weight.shape[0], layer.weight[0].numel()
        widest = max(layer.weight.shape[:2])
        wanted = math.ceil(self.rank_ratio * widest) if self.rank_ratio else self.rank
        return max(1, min(wanted, out_size, in_size))


class Adapter(nn.Module):
    """What all adapters have: they compute in float32 and see their layer only as strides and padding."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = (
            {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
            if is_conv(layer)
            else None
        )

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer's own operation with another weight."""
        if self.conv is None:
            return functional.linear(x, weight, bias)
        return functional.conv2d(x, weight, bias, **self.conv)


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

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(x.to(self.down.dtype), self.dropout, self.training)
        hidden = self.apply_weight(x, self.down)
        scale = self.alpha / self.rank
        return scale * (functional.linear(hidden, self.up) if self.conv is None else functional.conv2d(hidden, self.up))

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

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_weight(x.to(self.diff.dtype), self.diff, self.diff_b)


def is_conv(layer: Layer) -> bool:
    """Whether a layer is a 2-D convolution, also of a class that only behaves like one."""
    weight = getattr(layer, "weight", None)
    return isinstance(layer, nn.Conv2d) or (weight is not None and weight.ndim == 4 and hasattr(layer, "stride"))


def is_linear(layer: Layer) -> bool:
    """Whether a layer is linear, also of a class that only behaves like one."""
    return isinstance(layer, nn.Linear) or hasattr(layer, "in_features")


def adaptable_layers(network: nn.Module) -> dict[str, Layer]:
    """Path -> layer, of all linear and ungrouped convolution layers in the order of the network."""
    return {
        path: layer
        for path, layer in network.named_modules()
        if getattr(layer, "weight", None) is not None and (is_linear(layer) or (is_conv(layer) and layer.groups == 1))
    }


def select_layers(network: nn.Module, settings: AdapterSettings) -> dict[str, Layer]:
    """Path -> layer, of the layers that the settings' targets name.

    Raises:
        ValueError: a pattern that names no layer.
    """
    layers = adaptable_layers(network)
    chosen: set[str] = set()
    for pattern in settings.patterns():
        named = {path for path, layer in layers.items() if _matches(pattern, path, layer)}
        if not named:
            examples = ", ".join(list(layers)[:3])
            raise ValueError(
                f"the adapter target {pattern!r} names no layer; presets are {', '.join(map(repr, TARGETS))}, and "
                f"patterns match module paths such as {examples}"
            )
        chosen |= named
    return {path: layer for path, layer in layers.items() if path in chosen}


def _matches(pattern: str, path: str, layer: Layer) -> bool:
    kind, _, rest = pattern.rpartition(":")
    right_kind = {"": True, "linear": is_linear(layer), "conv": is_conv(layer)}.get(kind, False)
    return right_kind and fnmatch.fnmatchcase(path, rest)


def make_adapters(network: nn.Module, settings: AdapterSettings, generator: torch.Generator) -> dict[str, Adapter]:
    """Path -> new adapter, for the chosen layers; the network is left as it is."""
    layers = select_layers(network, settings)
    everything = adaptable_layers(network)
    convs = [path for path, layer in everything.items() if is_conv(layer)]
    ends = {convs[0], convs[-1]} if settings.full_ends and convs else set()
    adapters: dict[str, Adapter] = {}
    for path, layer in {**layers, **{path: everything[path] for path in ends}}.items():
        if path in ends:
            adapters[path] = FullAdapter(layer)
        else:
            rank = settings.rank_of(layer)
            alpha = float(rank if settings.alpha is None else settings.alpha)
            adapters[path] = LowRankAdapter(layer, rank, alpha, settings.dropout, generator)
    return adapters


@contextmanager
def attached(network: nn.Module, adapters: Mapping[str, Adapter]) -> Iterator[None]:
    """The network with its adapters on; leaving the block takes them off, after an error, too."""

    def hook(adapter: Adapter) -> Any:
        return lambda layer, inputs, output: output + adapter(inputs[0]).to(output.dtype)

    handles = []
    try:
        for path, adapter in adapters.items():
            handles.append(network.get_submodule(path).register_forward_hook(hook(adapter)))
        yield
    finally:
        for handle in handles:
            handle.remove()
