"""The image condition: a MODEL whose first convolution takes a second latent, concatenated with the noisy one.

The convolution of C channels becomes one of 2C with both halves W / 2, so that on a doubled input the untrained model
answers as it did. The host's own weight patches do that on a clone: padding makes [W, 0] of W, to which
[-W / 2, +W / 2] is added; nothing that clones share is touched. The second latent comes through the host's "concat"
conditioning.
"""

from typing import Any

import comfy.conds
import comfy.lora
import comfy.patcher_extension
import comfy.utils
import torch
from torch import Tensor

CONCAT_KEY = "diff2flow_image_condition"
FIRST_CONV = "input_blocks.0.0"
# The host's names of the second latent: in a CONDITIONING, and as a keyword argument of the network.
ENTRY_KEY, CALL_KEY = "concat_latent_image", "c_concat"
CONDITION_NODE = "Add Image Condition (Diff2Flow)"
APPLY_NODE = "Apply Image Condition (Diff2Flow)"

_WEIGHT = f"diffusion_model.{FIRST_CONV}.weight"
_OUTER_SAMPLE = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
_ON_CLONE = comfy.patcher_extension.CallbacksMP.ON_CLONE


def widen(model: Any) -> Any:
    """A clone of a MODEL that takes an image condition; given the same latent twice, it returns what the model returns.

    Args:
        model: diffusion MODEL with a Stable Diffusion UNet, with or without LoRAs, converted or not.

    Raises:
        ValueError: names the model and why it cannot take one.
    """
    weight = _check(model)
    clone = model.clone()
    half = weight / 2
    clone.add_patches({_WEIGHT: ("diff", (torch.cat([-half, half], dim=1), {"pad_weight": True}))})
    clone.add_object_patch("concat_keys", ("concat_image",))
    clone.add_wrapper_with_key(_OUTER_SAMPLE, CONCAT_KEY, _guard_condition)
    clone.add_callback_with_key(_ON_CLONE, CONCAT_KEY, _keep_from_saving)
    _keep_from_saving(model, clone)
    return clone


def widened(model: Any) -> bool:
    """Whether this MODEL takes an image condition, added by ``widen``."""
    return bool(model.get_wrappers(_OUTER_SAMPLE, CONCAT_KEY))


def with_condition(conditioning: Any, samples: Tensor) -> Any:
    """A CONDITIONING with concat conditioning: latents that the host concatenates with the noisy ones.

    The network of a model that takes none raises a ValueError when it is sampled.

    Args:
        conditioning: CONDITIONING; it is not changed.
        samples: latents in a LATENT's scale, (B, C, h, w); item i belongs to item i of the sampled batch.
    """
    return [
        [text, {**options, ENTRY_KEY: samples, "model_conds": _needed(options, samples)}]
        for text, options in conditioning
    ]


class _NeededCondition(comfy.conds.CONDRegular):
    """Concat conditioning that a model with an image condition replaces by its own; any other one cannot use it."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> Any:
        raise ValueError(
            f"the conditioning comes from '{APPLY_NODE}', but this model takes no image condition, so the image "
            f"would be ignored; put '{CONDITION_NODE}', or 'Load LoRA (Diff2Flow)' with a LoRA that was trained on "
            f"one, before the sampler, or remove '{APPLY_NODE}'"
        )


def _needed(options: dict[str, Any], samples: Tensor) -> dict[str, Any]:
    return {**options.get("model_conds", {}), CALL_KEY: _NeededCondition(samples)}


def _keep_from_saving(model: Any, clone: Any) -> None:
    """Make a clone, and clones of it, refuse to be saved: the file would not say what it is."""
    clone.state_dict_for_saving = _refuse_to_save


def _refuse_to_save(*args: Any, **kwargs: Any) -> Any:
    raise ValueError(
        "a model with an image condition cannot be saved as a checkpoint: ComfyUI would open the file as another kind "
        "of model (InstructPix2Pix); save the LoRA with 'Save LoRA (Diff2Flow)' instead, as 'Load LoRA (Diff2Flow)' "
        "adds the image condition again"
    )


def sort_patches(model: Any) -> None:
    """Put patches for C channels before those for 2C on the first convolution, where they can be added.

    A LoRA for the plain model that was put on after ``widen`` would be left out by the host otherwise. Patches add up,
    so that the order makes no other difference. Only the MODEL's own list of patches is changed.
    """
    patches = model.patches.get(_WEIGHT, [])
    shape = _plain_weight(model).shape
    ordered = sorted(patches, key=lambda patch: _shape_of(patch, shape) != shape)
    if [id(patch) for patch in ordered] != [id(patch) for patch in patches]:
        model.patches[_WEIGHT] = ordered
        model.add_patches({})  # a new identity, so that the host loads the weights again


def _shape_of(patch: Any, shape: torch.Size) -> torch.Size:
    """Shape of the weight that a patch needs, if the unpatched one has ``shape``."""
    value = patch[1]
    if isinstance(value, list):  # another model's weight with its patches, of a merge
        return comfy.lora.calculate_shape(value[1:], value[0][0], _WEIGHT)
    return torch.Size(comfy.lora.calculate_shape([patch], torch.empty(shape, device="meta"), _WEIGHT))


def _plain_weight(model: Any) -> Tensor:
    """Unpatched weight of the first convolution; the module's own may be that of a loaded clone."""
    weight, convert = model.get_key_patches(_WEIGHT)[_WEIGHT][0]
    return convert(weight.detach().clone(), inplace=True)


def _check(model: Any) -> Tensor:
    """Unpatched weight (out, C, k, k) of the first convolution, float32, of a MODEL that can be widened."""
    name = type(model.model).__name__
    if widened(model):
        raise ValueError(f"this model ({name}) went through '{CONDITION_NODE}' before; remove the second one")
    weight = _plain_weight(model) if _WEIGHT in model.model_state_dict() else None
    if weight is None or weight.ndim != 4:
        raise ValueError(
            f"{name} has no UNet whose first layer is a convolution; '{CONDITION_NODE}' takes SD1.5, SD2.1, SDXL and "
            "their fine-tunes"
        )
    channels = model.model.latent_format.latent_channels
    if weight.shape[1] != channels or model.get_model_object("concat_keys"):
        raise ValueError(
            f"{name} takes {weight.shape[1]} channels for latents of {channels}: it is an inpainting or editing model "
            f"with a condition of its own; '{CONDITION_NODE}' takes plain text-to-image checkpoints"
        )
    return weight.float()


def _guard_condition(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Wrapper around every sampling of a widened model: without a condition the host would use the initial latent."""
    for name, entries in executor.class_obj.conds.items():
        if any(entry.get(ENTRY_KEY) is None for entry in entries):
            raise ValueError(
                f"this model takes an image condition, but '{name}' has none; put '{APPLY_NODE}' between the text "
                "encoder and the sampler, for positive and negative"
            )
    model = executor.class_obj.model_patcher
    sort_patches(model)
    try:
        return executor(*args, **kwargs)
    finally:
        _take_off(model)


def _take_off(model: Any) -> None:
    """Restore the original layer where the host does not: to 0.18 its dynamic patcher leaves the wide one to clones."""
    if not model.is_dynamic() or hasattr(model, "restore_loaded_backups"):
        return
    for key in (_WEIGHT, f"diffusion_model.{FIRST_CONV}.bias"):
        if key in model.backup:
            comfy.utils.set_attr_param(model.model, key, model.backup.pop(key).weight)
