"""Which layers of a network get adapters, and how large.

The paper adapts q, k and v of all attentions and every convolution, with rank = ceil(0.2 max(in, out)), and trains
the first and the last convolution in full. ``TARGETS`` names this and other choices; patterns of module paths name any
other. ``make_adapters`` only reads the network.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import nn

from .adapter import Adapter, FullAdapter, Layer, LowRankAdapter, WidenedAdapter, is_conv, is_linear
from .layer_rules import LayerRule, check_rules, matches, rule_of

# (layer, rank, alpha, dropout, generator) -> adapter
MakeAdapter = Callable[[Layer, int, float, float, torch.Generator], Adapter]

# Stable Diffusion's, then SD3's and Flux's, Flux's single blocks, AuraFlow's.
_ATTENTION = ("*.to_q", "*.to_k", "*.to_v", "*attn*.qkv", "*single_blocks.*.linear1", "*attn.w[12][qkv]")
_OUTPUTS = ("*.to_out.0", "*attn*.proj", "*single_blocks.*.linear2", "*attn.w[12]o")

TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "attention": (*_ATTENTION, *_OUTPUTS),
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
        rules: what some layers have of their own.
    """

    targets: str = "attention_and_conv"
    rank: int = 16
    rank_ratio: float = 0.0
    alpha: float | None = None
    dropout: float = 0.0
    full_ends: bool = False
    rules: tuple[LayerRule, ...] = ()

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

    def of_layer(self, path: str, layer: Layer) -> "AdapterSettings":
        """Those of one layer, by the rules."""
        rule = rule_of(self.rules, path, layer)
        alpha = self.alpha if rule.alpha is None else rule.alpha
        if rule.rank is None:
            return replace(self, alpha=alpha)
        return replace(self, alpha=alpha, rank=rule.rank, rank_ratio=0.0)

    def rank_of(self, layer: Layer) -> int:
        """Rank of the adapter of a layer, at most that of its weight."""
        out_size, in_size = layer.weight.shape[0], layer.weight[0].numel()
        widest = max(layer.weight.shape[:2])
        wanted = math.ceil(self.rank_ratio * widest) if self.rank_ratio else self.rank
        return max(1, min(wanted, out_size, in_size))


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
        ValueError: a pattern of the user's, or a whole preset, that names no layer.
    """
    layers = adaptable_layers(network)
    chosen: set[str] = set()
    for pattern in settings.patterns():
        named = {path for path, layer in layers.items() if matches(pattern, path, layer)}
        if not named and settings.targets not in TARGETS:
            raise _names_nothing(pattern, layers)
        chosen |= named
    # A preset with attention that finds none, in a network that it does not know, would train next to nothing.
    wanted = set(_ATTENTION) & set(TARGETS.get(settings.targets, ()))
    known = any(matches(pattern, path, layers[path]) for pattern in wanted for path in chosen)
    if not chosen or (wanted and not known):
        raise _names_nothing(settings.targets, layers, "attention layer" if chosen else "layer")
    return {path: layer for path, layer in layers.items() if path in chosen}


def _names_nothing(target: str, layers: Mapping[str, Layer], what: str = "layer") -> ValueError:
    examples = ", ".join(list(layers)[:3])
    return ValueError(
        f"the adapter target {target!r} names no {what}; presets are {', '.join(map(repr, TARGETS))}; patterns match "
        f"module paths such as {examples}"
    )


def make_adapters(
    network: nn.Module,
    settings: AdapterSettings,
    generator: torch.Generator,
    make: MakeAdapter = LowRankAdapter,
    in_full: Collection[str] = (),
) -> dict[str, Adapter]:
    """Path -> new adapter, for the chosen layers; the network is left as it is.

    Args:
        network: whose layers are adapted.
        settings: which layers, and how large.
        generator: of the start values.
        make: builds the adapters of low rank.
        in_full: paths of widened convolutions, trained in full whatever the settings choose.

    Raises:
        ValueError: a target or a rule that names no layer, or rules that leave none.
    """
    layers = _adapted(select_layers(network, settings), settings)
    everything = adaptable_layers(network)
    convs = [path for path, layer in everything.items() if is_conv(layer)]
    ends = {convs[0], convs[-1]} if settings.full_ends and convs else set()
    adapters: dict[str, Adapter] = {}
    whole = {path: layer for path, layer in everything.items() if path in ends or path in in_full}
    for path, layer in {**layers, **whole}.items():
        if path in in_full:
            adapters[path] = WidenedAdapter(layer)
        elif path in ends:
            adapters[path] = FullAdapter(layer)
        else:
            own = settings.of_layer(path, layer)
            rank = own.rank_of(layer)
            alpha = float(rank if own.alpha is None else own.alpha)
            adapters[path] = make(layer, rank, alpha, settings.dropout, generator)
    return adapters


def _adapted(layers: Mapping[str, Layer], settings: AdapterSettings) -> dict[str, Layer]:
    """The chosen layers without those that a rule leaves out. Raises ValueError if none is left, or a rule is idle."""
    check_rules(settings.rules, layers)
    kept = {path: layer for path, layer in layers.items() if rule_of(settings.rules, path, layer).rank != 0}
    if not kept:
        raise ValueError("layer_rules: rank=0 leaves out every layer; keep some, or remove the line")
    return kept
