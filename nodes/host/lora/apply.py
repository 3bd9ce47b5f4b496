"""Applying a LoRA to a MODEL by the host's own loader, after a look at whether all of it fits."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.sd
import comfy.utils
import comfy.weight_adapter
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..model import FIND_OUT
from ..progress import LOGGER


def apply_lora(model: Any, lora: Mapping[str, Tensor], strength: float) -> Any:
    """A clone of a MODEL with a LoRA applied by the host's own loader; arguments and errors as of ``apply_to_both``."""
    return apply_to_both(model, None, lora, strength)[0]


def apply_to_both(model: Any, clip: Any, lora: Mapping[str, Tensor], strength: float) -> tuple[Any, Any]:
    """Clones of a MODEL and a CLIP with a LoRA applied by the host's own loader.

    Args:
        model: MODEL, converted or not.
        clip: CLIP, or None, which stays None.
        lora: key -> tensor, in any layout that the host knows.
        strength: factor of the LoRA; may be negative.

    Raises:
        ValueError: no layer of it belongs to this model, or some do not fit; names some of them.
    """
    find_patches(model, lora, clip)
    if clip is not None:
        find_text_patches(clip, lora)
    return comfy.sd.load_lora_for_models(model, clip, lora, strength, 0 if clip is None else strength)


def has_text_layers(lora: Mapping[str, Tensor]) -> bool:
    """Whether a LoRA has layers of text encoders."""
    return any(key.startswith(("lora_te", "text_encoder", "lora_prior_te")) for key in lora)


def find_patches(model: Any, lora: Mapping[str, Tensor], clip: Any = None) -> dict[Any, Any]:
    """The host's patches of a LoRA for a MODEL: weight or part of one -> patch.

    Args:
        model, lora: as of ``apply_to_both``.
        clip: CLIP to which other layers of it belong, or None.

    Raises:
        ValueError: no layer of it belongs to this model, or some do not fit; names some of them.
    """
    targets = comfy.lora.model_lora_keys_unet(model.model, {})
    elsewhere = {} if clip is None else comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    kind = type(model.model).__name__
    stems = {key: _stems(key) & targets.keys() for key in lora}
    unknown = [key for key in lora if not stems[key]]
    if len(unknown) == len(lora):
        raise ValueError(
            f"this LoRA has no layer that {kind} has ({_some(unknown)}); it was trained on another kind of model, or "
            f"for the text encoder alone: choose a LoRA for this model; {FIND_OUT}"
        )
    names = {targets[name]: name for found in stems.values() for name in found}
    patches = _fitting_patches(model, lora, targets, names, kind)
    if unknown := [key for key in unknown if not _stems(key) & elsewhere.keys()]:
        LOGGER.warning(
            "%d of %d keys of the LoRA belong to no layer of %s and are left out: %s",
            len(unknown),
            len(lora),
            kind,
            _some(unknown),
        )
    return patches


def find_text_patches(clip: Any, lora: Mapping[str, Tensor]) -> dict[Any, Any]:
    """The host's patches of a LoRA for a CLIP; {} if it has no layers of text encoders.

    Raises:
        ValueError: some layers do not fit; names some of them.
    """
    targets = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    own = {key: tensor for key, tensor in lora.items() if _stems(key) & targets.keys()}
    names = {targets[name]: name for key in own for name in _stems(key) & targets.keys()}
    kind = type(clip.cond_stage_model).__name__
    return _fitting_patches(clip.patcher, own, targets, names, kind) if own else {}


def _fitting_patches(
    patcher: Any, lora: Mapping[str, Tensor], targets: Mapping[str, Any], names: dict[Any, str], kind: str
) -> dict[Any, Any]:
    names = {**names, **{f"{str(target).removesuffix('.weight')}.bias": name for target, name in names.items()}}
    patches = _patches(lora, targets)
    wrong = [names.get(target, str(target)) for target in _misfits(patcher, patches)]
    if wrong:
        raise ValueError(
            f"{len(wrong)} layers of this LoRA have other sizes than those of {kind} ({_some(wrong)}), or a form that "
            "this ComfyUI fails on; it was trained on another kind of model: choose a LoRA for this model; "
            f"{FIND_OUT}"
        )
    return patches


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
