"""Encoding of a training set's images and captions by the host's VAE and CLIP, and fingerprints of these two.

What is encoded is what the stock nodes VAEEncode, CLIPTextEncode and CLIPTextEncodeSDXL would give for it.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import seeded
from ..fingerprints import patched_fingerprint

SDXL_TOKENS = {"l", "g"}


def check_models(clip: Any, vae: Any) -> None:
    """Raise ValueError for the None that a loader returns for a checkpoint without text encoder or VAE."""
    for name, model in (("clip", clip), ("vae", vae)):
        if model is None:
            raise ValueError(
                f"input '{name}' is empty: the checkpoint before it holds none; connect a loader for the "
                f"{name.upper()} that belongs to the model"
            )


def latent_factor(vae: Any) -> int:
    """Number of pixels per latent position, along one side."""
    return int(vae.spacial_compression_encode())


def encode_images(vae: Any, pixels: Tensor, names: Sequence[str] = ()) -> Tensor:
    """Latents of images, as VAEEncode gives them.

    Args:
        pixels: (B, H, W, 3) in [0, 1].
        names: of the images, for an error; those without one are numbered.

    Returns:
        (B, C, h, w) on the CPU.

    Raises:
        ValueError: the VAE makes no latents of images, or returns numbers that are not finite.
    """
    with seeded(0, torch.device(vae.device)):  # some VAEs draw their sample from the global generator
        latents = vae.encode(pixels).cpu()
    if latents.ndim != 4 or len(latents) != len(pixels):
        raise ValueError(
            f"this VAE makes latents of shape {tuple(latents.shape)} of {len(pixels)} images; connect the VAE of an "
            "image model (SD1.5, SD2.1, SDXL)"
        )
    spoilt = (~torch.isfinite(latents).flatten(1).all(1)).nonzero().flatten().tolist()
    if spoilt:
        which = ", ".join(names[row] if names else f"image {row + 1}" for row in spoilt)
        raise ValueError(
            f"the VAE returned numbers that are not finite for {which}, which happens in half precision; start ComfyUI "
            "with --fp32-vae or --bf16-vae, or leave the image out"
        )
    return latents


def encode_caption(clip: Any, caption: str) -> list:
    """CONDITIONING of a caption, as CLIPTextEncode gives it, on the CPU."""
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(caption), show_pbar=False)
    return [
        [_to_cpu(cond), {name: _to_cpu(value) for name, value in options.items()}] for cond, options in conditioning
    ]


def _to_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def takes_sizes(clip: Any) -> bool:
    """Whether this is the CLIP of SDXL, whose conditioning holds the sizes of the image as well."""
    return set(clip.tokenize("")) == SDXL_TOKENS


def vae_identity(vae: Any) -> str:
    """Hash of a VAE's class, types and a sample of its weights."""
    return _fingerprint(vae.first_stage_model, getattr(vae, "patcher", None), str(vae.vae_dtype))


def clip_identity(clip: Any) -> str:
    """Hash of a CLIP's class, options, patches (LoRAs) and a sample of its weights."""
    hooks = uuid.uuid4().hex if clip.patcher.forced_hooks is not None else ""  # their effect is not to be hashed
    options = (clip.layer_idx, sorted(clip.tokenizer_options.items()), hooks)
    return _fingerprint(clip.cond_stage_model, clip.patcher, repr(options))


def _fingerprint(module: Any, patcher: Any, options: str) -> str:
    # The host patches weights in place and keeps the old ones here.
    replaced = {name: saved.weight for name, saved in getattr(patcher, "backup", {}).items()}
    return patched_fingerprint(module, options, replaced, getattr(patcher, "patches", {}))
