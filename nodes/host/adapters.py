"""LoKr and LoHa: the host's own adapters, on the forward side like ours."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import comfy.weight_adapter
import torch
from torch import Tensor
from torch.nn import functional

from ...d2f_core import Adapter, LowRankAdapter


class HostAdapter(Adapter):
    """An adapter of the host's that changes a weight, as one that adds to a layer's output.

    Args:
        layer: the layer; only its weight's shape and device are read.
        rank, alpha: as the kind understands them.
        dropout: probability that an input value is dropped in training.
        generator: of the start values; the host draws them from the global one, which is put back.
        kind: name in the host's table of adapters.
    """

    def __init__(
        self, layer: Any, rank: int, alpha: float, dropout: float, generator: torch.Generator, kind: str
    ) -> None:
        super().__init__(layer)
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            maker = comfy.weight_adapter.adapter_maps[kind]
            self.trained = maker.create_train(layer.weight, rank=rank, alpha=alpha)
        self.shape, self.dropout = layer.weight.shape, dropout

    def forward(self, x: Tensor) -> Tensor:
        """What the changed weight adds to the layer's output."""
        delta = self.trained(torch.zeros(self.shape, device=x.device))
        return self.apply_weight(functional.dropout(x, self.dropout, self.training), delta.to(x.dtype))

    def file_tensors(self) -> dict[str, Tensor]:
        """The host's names of this kind's tensors, ``alpha`` among them."""
        return {name: value.detach() for name, value in self.trained.named_parameters()}


def _of_kind(cls: str) -> Callable[..., Adapter]:
    def make(layer: Any, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> Adapter:
        if cls not in comfy.weight_adapter.adapter_maps:
            raise ValueError(f"this ComfyUI cannot train {cls} adapters; choose 'lora', or update ComfyUI")
        return HostAdapter(layer, rank, alpha, dropout, generator, cls)

    return make


ADAPTER_KINDS: Mapping[str, Callable[..., Adapter]] = MappingProxyType(
    {"lora": LowRankAdapter, "lokr": _of_kind("LoKr"), "loha": _of_kind("LoHa")}
)
"""Kind of adapter -> ``make`` of ``d2f_core.make_adapters``."""
