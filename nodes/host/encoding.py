"""Encoding of a training set's images and captions by the host's VAE and CLIP, and fingerprints of these two.

What is encoded is what the stock nodes VAEEncode, CLIPTextEncode and CLIPTextEncodeSDXL would give for it.
"""

import copy
import uuid
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import seeded
from ...d2f_data.image_sets.captions.weights import escaped, has_prompt_syntax
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


def encode_caption(clip: Any, caption: str, prompt_weights: bool = True) -> list:
    """CONDITIONING of a caption on the CPU, as CLIPTextEncode gives it, or of the text as it is written.

    Args:
        clip: a CLIP.
        caption: the text.
        prompt_weights: whether brackets and embeddings are read as in a prompt.
    """
    conditioning = clip.encode_from_tokens_scheduled(tokens_of(clip, caption, prompt_weights), show_pbar=False)
    return [
        [_to_cpu(cond), {name: _to_cpu(value) for name, value in options.items()}] for cond, options in conditioning
    ]


def tokens_of(clip: Any, caption: str, prompt_weights: bool = True) -> Any:
    """Tokens of a caption, arguments as for ``encode_caption``."""
    literally = not prompt_weights and has_prompt_syntax(caption)
    return _literal_tokens(clip, caption) if literally else clip.tokenize(caption)


def _literal_tokens(clip: Any, caption: str) -> Any:
    """Tokens of a caption as it is written: by copies of the tokenizers, as the host has no switch for embeddings."""
    own, tokenizer = copy.copy(clip), copy.copy(clip.tokenizer)
    for name, part in vars(clip.tokenizer).items():
        if hasattr(part, "embedding_identifier"):
            part = copy.copy(part)
            part.embedding_identifier = "\0"  # is in no caption
            setattr(tokenizer, name, part)
    own.tokenizer = tokenizer
    return own.tokenize(escaped(caption), disable_weights=True)


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
