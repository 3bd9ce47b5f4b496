"""Kinds of adapters: ours (LoRA, DoRA), and the host's own (LoKr, LoHa, OFT) as one of ours.

The host loads DoRA, but cannot train it: its trainable LoRA has no ``dora_scale``, and what it computes when it loads
one overwrites values that a backward pass needs. Ours computes the same, for lengths per input channel. BOFT and
GLoRA it loads only.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import comfy.weight_adapter
import torch
from torch import Tensor
from torch.nn import functional

from ....d2f_core import Adapter, DoraAdapter, LowRankAdapter, is_compiled, is_on_demand, seeded
from ..model_call import has_plain_weight


class HostAdapter(Adapter):
    """One of the host's adapters, which change a weight, as an adapter that adds to a layer's output.

    Args:
        layer: the layer; only its weight's shape and device are read.
        rank, alpha: as this kind of adapter defines them.
        dropout: probability that an input value is dropped in training.
        generator: of the initial values; the host draws them from the global generator, whose state is restored.
        kind: name in the host's table of adapters.
    """

    def __init__(
        self, layer: Any, rank: int, alpha: float, dropout: float, generator: torch.Generator, kind: str
    ) -> None:
        super().__init__(layer)
        seed = int(torch.randint(2**62, (), generator=generator))
        with seeded(seed, layer.weight.device):
            maker = comfy.weight_adapter.adapter_maps[kind]
            self.trained = maker.create_train(layer.weight, rank=rank, alpha=alpha)
        self.shape, self.dropout = layer.weight.shape, dropout

    @classmethod
    def of(cls, layer: Any, patch: Any, dropout: float) -> "HostAdapter":
        """One that starts at a patch of a file, an adapter of the host's.

        Raises:
            NotImplementedError: the host cannot train its kind.
        """
        adapter = cls.__new__(cls)
        Adapter.__init__(adapter, layer)
        device = layer.weight.device
        values = [v.to(device, torch.float32, copy=True) if isinstance(v, Tensor) else v for v in patch.weights]
        if isinstance(patch, comfy.weight_adapter.OFTAdapter):
            values[2] = values[2] or 0.0  # no alpha is no limit to the turn
        adapter.trained = type(patch)(patch.loaded_keys, tuple(values)).to_train()
        adapter.shape, adapter.dropout = layer.weight.shape, dropout
        return adapter

    def forward(self, x: Tensor) -> Tensor:
        """What the changed weight adds to the layer's output."""
        delta = self.trained(torch.zeros(self.shape, device=x.device))
        return self.apply_weight(functional.dropout(x, self.dropout, self.training), delta.to(x.dtype))

    def file_tensors(self) -> dict[str, Tensor]:
        """The tensors under the host's names, including ``alpha``."""
        return {name: value.detach() for name, value in self.trained.named_parameters()}


class RotationAdapter(HostAdapter):
    """The host's OFT (Qiu et al., arXiv 2306.07280): outputs turned in blocks, ``W' = R W``, as an adapter.

    What is added is ``(R - I) (output - bias)``, as the bias is not turned; the host makes R.
    """

    def __init__(
        self, layer: Any, rank: int, alpha: float, dropout: float, generator: torch.Generator, kind: str
    ) -> None:
        if is_compiled(layer):
            raise ValueError(
                "adapter oft cannot be compiled, as ComfyUI's arithmetic for it looks at values; switch 'compile' off, "
                "or choose another adapter"
            )
        super().__init__(layer, rank, alpha, dropout, generator, kind)
        if self.trained.block_size < 2:
            raise ValueError(
                f"adapter oft turns blocks of at most 'rank' outputs, but the {len(layer.weight)} outputs of a layer "
                f"do not fall into such blocks of 2 or more with rank {rank}; set a higher rank for it, or leave it "
                "out by a line with rank=0 in 'layer_rules'"
            )

    def added(self, layer: Any, x: Tensor, output: Tensor) -> Tensor:
        """What the turned weight adds to the layer's output, (B, *)."""
        bias, channels = layer.bias, 1 if self.conv else -1
        for function in getattr(layer, "bias_function", ()) if bias is not None else ():
            bias = function(bias)
        moved = output.movedim(channels, -1)
        moved = moved if bias is None else moved - bias.to(output)
        given = functional.dropout(moved, self.dropout, self.training)
        turn = self._excess().to(output.dtype)
        blocks = given.unflatten(-1, turn.shape[:2])
        return torch.einsum("kmn,...kn->...km", turn, blocks).flatten(-2).movedim(-1, channels)

    def _excess(self) -> Tensor:
        """R - I, (blocks, size, size), float32."""
        unit = torch.eye(self.trained.block_size, device=self.trained.oft_blocks.device)
        units = unit.repeat(self.trained.block_num, 1)
        return (self.trained(units) - units).unflatten(0, (self.trained.block_num, -1))


# Kind -> name in the host's table of adapters, and the adapter that it is.
_HOST_KINDS = {"lokr": ("LoKr", HostAdapter), "loha": ("LoHa", HostAdapter), "oft": ("OFT", RotationAdapter)}


def kind_of(patch: Any) -> str:
    """Kind of a patch of the host's loader, one of ``ADAPTER_KINDS``; "" for one that cannot be trained."""
    if isinstance(patch, comfy.weight_adapter.LoRAAdapter):
        up, _, _, middle, lengths, wide = patch.weights
        if middle is None and lengths is None:
            return "lora"
        return "dora" if middle is wide is None and len(lengths) == 1 < len(up) else ""
    if isinstance(patch, comfy.weight_adapter.OFTAdapter) and any(patch.weights[place] is not None for place in (1, 3)):
        return ""  # with a scale of its own
    known = comfy.weight_adapter.adapter_maps
    return next((kind for kind, (name, _) in _HOST_KINDS.items() if name in known and type(patch) is known[name]), "")


def adapter_of(layer: Any, patch: Any, dropout: float) -> Adapter:
    """An adapter that starts at a patch of a kind of the host's, not of low rank."""
    return _HOST_KINDS[kind_of(patch)][1].of(layer, patch, dropout)


def _of_kind(name: str, adapter: type[HostAdapter]) -> Callable[..., Adapter]:
    def make(layer: Any, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> Adapter:
        if name not in comfy.weight_adapter.adapter_maps:
            raise ValueError(f"this ComfyUI cannot train {name} adapters; choose 'lora', or update ComfyUI")
        return adapter(layer, rank, alpha, dropout, generator, name)

    return make


def check_lengths(layer: Any) -> None:
    """Raise ValueError for a layer whose weight in effect, or its lengths in a file, would not be what they are."""
    if not (is_on_demand(layer) or has_plain_weight(layer)):
        raise ValueError(
            "adapter dora needs the weights of its layers, but some of this model's are quantized, or changed while "
            "they run, in a way that hides theirs; switch 'compile' off, use a checkpoint in float16, bfloat16 or "
            "float32, or choose the adapter lora or oft"
        )
    if len(layer.weight) < 2:
        raise ValueError(
            "adapter dora cannot be saved for a layer with a single output, as loaders read its file in another way; "
            "leave it out by a line with rank=0 in 'layer_rules'"
        )


def _dora(layer: Any, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> Adapter:
    check_lengths(layer)
    return DoraAdapter(layer, rank, alpha, dropout, generator)


ADAPTER_KINDS: Mapping[str, Callable[..., Adapter]] = MappingProxyType(
    {
        "lora": LowRankAdapter,
        "lokr": _of_kind(*_HOST_KINDS["lokr"]),
        "loha": _of_kind(*_HOST_KINDS["loha"]),
        "dora": _dora,
        "oft": _of_kind(*_HOST_KINDS["oft"]),
    }
)
"""Kind of adapter -> ``make`` of ``d2f_core.make_adapters``."""
