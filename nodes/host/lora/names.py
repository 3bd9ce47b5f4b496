"""Names of a network's layers in LoRA files.

Layers are named as kohya's sd-scripts name them: SD1.x and SD2.x by the blocks of diffusers, SDXL and all others by
the blocks of the original network. The host's loaders, A1111's and diffusers know both.
"""

from typing import Any

import comfy.model_base
import comfy.utils

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
