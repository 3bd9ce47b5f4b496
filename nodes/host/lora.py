"""LoRAs in the host: names of their layers, applying one to a MODEL, and training the host's own kinds (LoKr, LoHa).

Layers are named as kohya's sd-scripts name them: SD1.x and SD2.x by the blocks of diffusers, SDXL and all others by
the blocks of the original network. The host's loaders, A1111's and diffusers know both.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import comfy.lora
import comfy.model_base
import comfy.sd
import comfy.utils
import comfy.weight_adapter
import torch
from torch import Tensor
from torch.nn import functional

from ...d2f_core import Adapter, LowRankAdapter, seeded
from .guard import LOGGER

_PREFIX = "lora_unet_"


def lora_names(model: Any) -> dict[str, str]:
    """Path of a layer in the diffusion network -> its name in a LoRA file, ``lora_unet_...``."""
    base = model.model
    paths = [path for path, layer in base.diffusion_model.named_modules() if getattr(layer, "weight", None) is not None]
    known = {} if isinstance(base, comfy.model_base.SDXL | comfy.model_base.SDXLRefiner) else _diffusers_paths(base)
    return {path: _PREFIX + known.get(path, path).replace(".", "_") for path in paths}


def _diffusers_paths(base: Any) -> dict[str, str]:
    """Path of a layer -> its path in diffusers, for networks that the host's map covers."""
    theirs = comfy.utils.unet_to_diffusers(base.model_config.unet_config)
    # Sorted: some layers have two names there, and the order of the host's table differs between processes.
    return {ours.removesuffix(".weight"): path.removesuffix(".weight") for path, ours in sorted(theirs.items())}


def apply_lora(model: Any, lora: Mapping[str, Tensor], strength: float) -> Any:
    """A clone of a MODEL with a LoRA applied by the host's own loader.

    Args:
        model: MODEL, converted or not.
        lora: key -> tensor, in any layout that the host knows.
        strength: factor of the LoRA; may be negative.

    Raises:
        ValueError: no layer of it belongs to this model; names some keys.
    """
    targets = comfy.lora.model_lora_keys_unet(model.model, {})
    kind = type(model.model).__name__
    unknown = [key for key in lora if not _is_known(key, targets)]
    if len(unknown) == len(lora):
        raise ValueError(
            f"this LoRA has no layer that {kind} has ({_some(unknown)}); it was trained on another kind of model, or "
            "for the text encoder alone: choose a LoRA for this model"
        )
    wrong = _wrong_shapes(model, lora, targets)
    if wrong:
        raise ValueError(
            f"{len(wrong)} layers of this LoRA have other sizes than those of {kind} ({_some(wrong)}); it was trained "
            "on another kind of model: choose a LoRA for this model"
        )
    if unknown:
        LOGGER.warning(
            "%d of %d keys of the LoRA belong to no layer of %s and are left out: %s",
            len(unknown),
            len(lora),
            kind,
            _some(unknown),
        )
    return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]


def _is_known(key: str, targets: Mapping[str, Any]) -> bool:
    """Whether a key begins with the name of a layer, one of ``targets``."""
    name = key
    while "." in name:
        name = name.rpartition(".")[0]
        if name in targets or name.removesuffix("_lora") in targets:
            return True
    return False


def _wrong_shapes(model: Any, lora: Mapping[str, Tensor], targets: Mapping[str, Any]) -> list[str]:
    """Layers whose factors have the wrong shape; the host would silently skip them."""
    wrong = []
    for key, up in lora.items():
        name = key.removesuffix(".lora_up.weight")
        down, target = lora.get(f"{name}.lora_down.weight"), targets.get(name)
        plain = f"{name}.lora_mid.weight" not in lora
        if name != key and down is not None and isinstance(target, str) and plain:
            # If a loaded clone has patched a layer, its original weight is in the backup.
            saved = model.backup.get(target)
            shape = (comfy.utils.get_attr(model.model, target) if saved is None else saved.weight).shape
            wide = _widened_shape(lora.get(f"{name}.reshape_weight"), shape)
            if wide is None or up.shape[0] != wide[0] or down[0].numel() != wide[1:].numel():
                wrong.append(name)
    return wrong


def _widened_shape(wanted: Tensor | None, shape: torch.Size) -> torch.Size | None:
    """Shape of a layer's weight after a LoRA has widened it; None if the layer cannot be widened like that."""
    if wanted is None:
        return shape
    wide = torch.Size(wanted.tolist())
    fits = len(wide) == len(shape) and wide[0] == shape[0] and all(new >= old for new, old in zip(wide, shape))
    return wide if fits else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


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

    def forward(self, x: Tensor) -> Tensor:
        """What the changed weight adds to the layer's output."""
        delta = self.trained(torch.zeros(self.shape, device=x.device))
        return self.apply_weight(functional.dropout(x, self.dropout, self.training), delta.to(x.dtype))

    def file_tensors(self) -> dict[str, Tensor]:
        """The tensors under the host's names, including ``alpha``."""
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
