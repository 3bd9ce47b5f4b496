"""Kinds of adapters: ours, and the host's own (LoKr, LoHa) as one of ours."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import comfy.weight_adapter
import torch
from torch import Tensor
from torch.nn import functional

from ....d2f_core import Adapter, LowRankAdapter, seeded


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


_HOST_KINDS = {"lokr": "LoKr", "loha": "LoHa"}  # kind -> name in the host's table of adapters


def kind_of(patch: Any) -> str:
    """Kind of a patch of the host's loader, one of ``ADAPTER_KINDS``; "" for one that cannot be trained."""
    if isinstance(patch, comfy.weight_adapter.LoRAAdapter):
        *_, middle, magnitude, _ = patch.weights
        return "lora" if middle is None and magnitude is None else ""
    known = comfy.weight_adapter.adapter_maps
    return next((kind for kind, name in _HOST_KINDS.items() if name in known and type(patch) is known[name]), "")


def _of_kind(name: str) -> Callable[..., Adapter]:
    def make(layer: Any, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> Adapter:
        if name not in comfy.weight_adapter.adapter_maps:
            raise ValueError(f"this ComfyUI cannot train {name} adapters; choose 'lora', or update ComfyUI")
        return HostAdapter(layer, rank, alpha, dropout, generator, name)

    return make


ADAPTER_KINDS: Mapping[str, Callable[..., Adapter]] = MappingProxyType(
    {"lora": LowRankAdapter, **{kind: _of_kind(name) for kind, name in _HOST_KINDS.items()}}
)
"""Kind of adapter -> ``make`` of ``d2f_core.make_adapters``."""
