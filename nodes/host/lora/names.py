"""Names of a network's layers in LoRA files.

Layers are named as kohya's sd-scripts name them: SD1.x and SD2.x by the blocks of diffusers, SDXL and all others by
the blocks of the original network. The host's loaders, A1111's and diffusers know both. Text encoders are named by the
blocks of transformers.
"""

from typing import Any

import comfy.lora
import comfy.model_base
import comfy.utils

_PREFIX = "lora_unet_"


def lora_names(model: Any) -> dict[str, str]:
    """Path of a layer in the diffusion network -> its name in a LoRA file, ``lora_unet_...``."""
    base = model.model
    paths = [path for path, layer in base.diffusion_model.named_modules() if getattr(layer, "weight", None) is not None]
    known = {} if isinstance(base, comfy.model_base.SDXL | comfy.model_base.SDXLRefiner) else _diffusers_paths(base)
    return {path: _PREFIX + known.get(path, path).replace(".", "_") for path in paths}


def text_names(clip: Any) -> dict[str, str]:
    """Path of a layer in the text encoders of a CLIP -> its name in a LoRA file.

    As kohya names them: ``lora_te_...`` of a single encoder, ``lora_te1_...`` and ``lora_te2_...`` of SDXL's two.
    Layers that the host's loader does not know by such a name are left out.
    """
    encoders = clip.cond_stage_model
    prefixes = ("lora_te1_", "lora_te2_") if len(list(encoders.children())) > 1 else ("lora_te_",)
    known = comfy.lora.model_lora_keys_clip(encoders, {})
    return {key.removesuffix(".weight"): name for name, key in known.items() if name.startswith(prefixes)}


def _diffusers_paths(base: Any) -> dict[str, str]:
    """Path of a layer -> its path in diffusers, for networks that the host's map covers."""
    theirs = comfy.utils.unet_to_diffusers(base.model_config.unet_config)
    # Sorted: some layers have two names there, and the order of the host's table differs between processes.
    return {ours.removesuffix(".weight"): path.removesuffix(".weight") for path, ours in sorted(theirs.items())}
