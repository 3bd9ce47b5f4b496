"""A training set's images and captions through the host's VAE and CLIP, and who those two are.

What is encoded is what the stock nodes VAEEncode, CLIPTextEncode and CLIPTextEncodeSDXL would give for it.
"""

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from torch import Tensor

T = TypeVar("T")
SAMPLED = 64  # numbers of each weight that an identity looks at
SDXL_TOKENS = {"l", "g"}


def input_folder() -> Path:
    """ComfyUI's input folder."""
    return Path(folder_paths.get_input_directory())


def cache_folder() -> Path:
    """Where encoded training sets are kept."""
    return Path(folder_paths.get_output_directory()) / "diff2flow" / "cache"


def check_models(clip: Any, vae: Any) -> None:
    """Refuse what a loader returns for a checkpoint without text encoder or VAE."""
    for name, model in (("clip", clip), ("vae", vae)):
        if model is None:
            raise ValueError(
                f"input '{name}' is empty: the checkpoint before it holds none; connect a loader for the "
                f"{name.upper()} that belongs to the model"
            )


def latent_factor(vae: Any) -> int:
    """Pixels a latent, along a side."""
    return int(vae.spacial_compression_encode())


def encode_images(vae: Any, pixels: Tensor) -> Tensor:
    """Latents of images, as VAEEncode gives them.

    Args:
        pixels: (B, H, W, 3) in [0, 1].

    Returns:
        (B, C, h, w) on the CPU.

    Raises:
        ValueError: the VAE makes no latents of images, or returns numbers that are not finite.
    """
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices):  # some VAEs draw their sample from the global generator
        torch.manual_seed(0)
        latents = vae.encode(pixels).cpu()
    if latents.ndim != 4 or len(latents) != len(pixels):
        raise ValueError(
            f"this VAE makes latents of shape {tuple(latents.shape)} of {len(pixels)} images; connect the VAE of an "
            "image model (SD1.5, SD2.1, SDXL)"
        )
    if not torch.isfinite(latents).all():
        raise ValueError(
            "the VAE returned numbers that are not finite, which happens in half precision; start ComfyUI with "
            "--fp32-vae or --bf16-vae"
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
    return _identity(vae.first_stage_model, getattr(vae, "patcher", None), str(vae.vae_dtype))


def clip_identity(clip: Any) -> str:
    """Hash of a CLIP's class, options, patches (LoRAs) and a sample of its weights."""
    hooks = uuid.uuid4().hex if clip.patcher.forced_hooks is not None else ""  # their effect is not to be hashed
    options = (clip.layer_idx, sorted(clip.tokenizer_options.items()), hooks)
    return _identity(clip.cond_stage_model, clip.patcher, repr(options))


def _identity(module: Any, patcher: Any, options: str) -> str:
    """Hash of a module's weights as they are without patches, and of the patches."""
    digest = hashlib.sha256(f"{type(module).__name__} {options}".encode())
    untouched = getattr(patcher, "backup", {})  # the host patches weights in place and keeps the old ones here
    for name, weight in sorted(module.state_dict().items()):
        weight = untouched[name].weight if name in untouched else weight
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(_sampled(weight))
    for name, patches in sorted(getattr(patcher, "patches", {}).items(), key=lambda entry: str(entry[0])):
        digest.update(str(name).encode())
        for part in _leaves(patches):
            digest.update(_sampled(part) if isinstance(part, Tensor) else repr(part).encode())
    return digest.hexdigest()


def _sampled(weight: Tensor) -> bytes:
    """Bytes of evenly spaced elements of a weight."""
    if weight.is_meta or not weight.numel():
        return b""
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLED)].double().cpu().numpy().tobytes()


def _leaves(patch: Any) -> Iterator[Any]:
    """Tensors, numbers and strings inside of the host's patch tuples and adapters."""
    if isinstance(patch, list | tuple):
        for part in patch:
            yield from _leaves(part)
    elif hasattr(patch, "weights"):
        yield type(patch).__name__
        yield from _leaves(patch.weights)
    elif patch is None or isinstance(patch, Tensor | str | int | float):
        yield patch


def track(steps: Iterable[T], total: int) -> Iterator[T]:
    """Pass steps on with the host's progress bar; raises the host's interrupt between them."""
    bar = comfy.utils.ProgressBar(max(1, total))
    comfy.model_management.throw_exception_if_processing_interrupted()
    for number, step in enumerate(steps, 1):
        bar.update_absolute(number, max(1, total))
        yield step
        comfy.model_management.throw_exception_if_processing_interrupted()
