"""LoRAs in the host: names of their layers, applying one to a MODEL, and training the host's own kinds (LoKr, LoHa).

Layers are named as kohya's sd-scripts name them: SD1.x and SD2.x by the blocks of diffusers, SDXL and all others by
the blocks of the original network. The host's loaders, A1111's and diffusers know both.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.model_base
import comfy.sd
import comfy.utils
import comfy.weight_adapter
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ...d2f_core import Adapter, LowRankAdapter, seeded
from .progress import LOGGER

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
        ValueError: no layer of it belongs to this model, or some do not fit; names some of them.
    """
    targets = comfy.lora.model_lora_keys_unet(model.model, {})
    kind = type(model.model).__name__
    stems = {key: _stems(key) & targets.keys() for key in lora}
    unknown = [key for key in lora if not stems[key]]
    if len(unknown) == len(lora):
        raise ValueError(
            f"this LoRA has no layer that {kind} has ({_some(unknown)}); it was trained on another kind of model, or "
            "for the text encoder alone: choose a LoRA for this model"
        )
    names = {targets[name]: name for found in stems.values() for name in found}
    names |= {f"{str(target).removesuffix('.weight')}.bias": name for target, name in names.items()}
    wrong = [names.get(target, str(target)) for target in _misfits(model, _patches(lora, targets))]
    if wrong:
        raise ValueError(
            f"{len(wrong)} layers of this LoRA have other sizes than those of {kind} ({_some(wrong)}), or a form that "
            "this ComfyUI fails on; it was trained on another kind of model: choose a LoRA for this model"
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


def _stems(key: str) -> set[str]:
    """What may be the name of a layer at the beginning of a key."""
    parts = key.split(".")
    found = {".".join(parts[:end]) for end in range(1, len(parts))}
    return found | {name.removesuffix("_lora") for name in found}


def _patches(lora: Mapping[str, Tensor], targets: Mapping[str, Any]) -> dict[Any, Any]:
    """The host's patches of a LoRA, of every kind of adapter that it knows: weight -> patch."""
    try:
        loaded = comfy.lora.load_lora(comfy.lora_convert.convert_lora(lora), targets, log_missing=False)
    except KeyError as error:
        raise ValueError(f"this LoRA lacks the tensor {error}; it is incomplete, use another copy of it") from None
    if not loaded:
        raise ValueError(
            f"this LoRA has tensors of a kind that this ComfyUI does not know ({_some(list(lora))}); update ComfyUI"
        )
    return loaded


def _misfits(model: Any, patches: Mapping[Any, Any]) -> list[Any]:
    """Weights that a patch does not fit; the host would silently leave them as they are."""
    wrong = []
    known = model.model.state_dict().keys()
    for target, patch in patches.items():
        key, offset = (target, None) if isinstance(target, str) else target[:2]
        if key in known:
            # If a loaded clone has patched a layer, its original weight is in the backup.
            saved = model.backup.get(key)
            shape = (comfy.utils.get_attr(model.model, key) if saved is None else saved.weight).shape
            # Kinds that look at their own values cannot be tried without any.
            if not any(_fits(patch, key, shape, offset, device) for device in ("meta", "cpu")):
                wrong.append(target)
    return wrong


def _fits(patch: Any, key: str, shape: torch.Size, offset: Any, device: str) -> bool:
    """Whether the host's own arithmetic changes a weight of this shape; it reports errors in the console only."""
    if isinstance(patch, tuple) and patch[0] == "set":  # the host would repeat a smaller one
        return patch[1][0].shape == shape
    if isinstance(patch, comfy.weight_adapter.LoRAAdapter) and patch.weights[5] is not None:
        wide = _widened_shape(torch.Size(patch.weights[5]), shape)
        if wide is None:
            return False
        patch, shape = comfy.weight_adapter.LoRAAdapter(patch.loaded_keys, (*patch.weights[:5], None)), wide
    with _silent(), torch.inference_mode(False), torch.no_grad(), _SameRows():
        weight = torch.zeros(shape, device=device)
        before = weight._version
        try:
            comfy.lora.calculate_weight([(1.0, patch, 1.0, offset, None)], weight, key)
        except (LookupError, NameError, RuntimeError, TypeError, ValueError):
            return False
        return weight._version > before


class _SameRows(TorchFunctionMode):
    """Refuses to reshape a product to a weight with other rows that happens to have as many values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.reshape and isinstance(args[1], torch.Size) and len(args[0]) != args[1][0]:
            raise ValueError(f"{tuple(args[0].shape)} is not a {tuple(args[1])}")
        return func(*args, **(kwargs or {}))


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing that this thread logs is shown: what the host would say about a trial is said in an error."""
    thread, logger = threading.get_ident(), logging.getLogger()

    def is_other(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _widened_shape(wide: torch.Size, shape: torch.Size) -> torch.Size | None:
    """Shape of a layer's weight after a LoRA has widened it; None if the layer cannot be widened like that."""
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
