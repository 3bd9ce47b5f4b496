"""A pipeline as one file with the original checkpoints' key names, which ComfyUI's Load Checkpoint and others open.

    unet            model.diffusion_model.*                             (``layout``)
    vae             first_stage_model.*                                 (``component_names``)
    text encoders   SD1.5  cond_stage_model.transformer.text_model.*
                    SD2.x  cond_stage_model.model.*                     in OpenCLIP's form
                    SDXL   conditioner.embedders.0.transformer.text_model.*, conditioner.embedders.1.model.*

The file's metadata say in ``modelspec.*`` what model it is, and in ``diff2flow.*`` how it was trained.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2f_data.files.atomic import save_tensors
from d2f_data.files.lora_file import DTYPES, smallest_dtype
from d2f_data.files.lora_metadata import LoraFacts, write_facts
from d2f_data.files.metadata.modelspec import modelspec

from .component_names import clip_in_openclip, vae_in_original
from .layout import SDXL_EMBEDDING, layer_names


class CheckpointNameError(ValueError):
    """A part of a pipeline has no names in the original's checkpoints."""


def save_checkpoint(path: Path, pipeline: Any, unet: Any, facts: LoraFacts, title: str, dtype: str = "") -> None:
    """Write a model as one safetensors file, completely or not at all.

    Args:
        path: destination; an existing file is replaced.
        pipeline: gives text encoders, VAE and noise schedule.
        unet: the network, diffusers' ``UNet2DConditionModel``.
        facts: how it was trained.
        title: title in the metadata.
        dtype: a name of ``d2f_data``'s ``DTYPES``; the smallest that holds all weights if empty.

    Raises:
        CheckpointNameError: the pipeline is no SD1.5, SD2.x or SDXL.
        OSError: the file could not be written.
    """
    tensors = checkpoint_tensors(pipeline, unet)
    kind = DTYPES[dtype or smallest_dtype(tensors)]
    cast = {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_tensors(path, cast, {"format": "pt", **modelspec(facts, title, "", True), **write_facts(facts)})


def checkpoint_tensors(pipeline: Any, unet: Any) -> dict[str, Tensor]:
    """All weights of a pipeline under the original's names, with those of another network.

    Raises:
        CheckpointNameError: the pipeline is no SD1.5, SD2.x or SDXL.
    """
    return {
        **{f"model.diffusion_model.{name}": tensor for name, tensor in unet_tensors(unet)},
        **{f"first_stage_model.{name}": tensor for name, tensor in _vae(pipeline.vae)},
        **_texts(pipeline, unet),
        **_markers(pipeline, unet),
    }


def unet_tensors(unet: Any) -> Iterator[tuple[str, Tensor]]:
    """(name in the original, tensor) of a network's weights."""
    state = unet.state_dict()
    for ours, theirs in layer_names(unet):
        for suffix in ("weight", "bias"):
            if f"{theirs}.{suffix}" in state:
                yield f"{ours}.{suffix}", state[f"{theirs}.{suffix}"]


def _vae(vae: Any) -> Iterator[tuple[str, Tensor]]:
    if type(vae).__name__ != "AutoencoderKL":
        raise CheckpointNameError(
            f"{type(vae).__name__} has no names in the original's checkpoints, which have an AutoencoderKL; use the "
            "folder in diffusers' format"
        )
    return vae_in_original(vae.state_dict(), len(vae.config.block_out_channels))


def _texts(pipeline: Any, unet: Any) -> dict[str, Tensor]:
    first, second = _clip(pipeline.text_encoder), _clip(getattr(pipeline, "text_encoder_2", None))
    width = unet.config.cross_attention_dim
    if unet.config.addition_embed_type == SDXL_EMBEDDING and first and second:
        own = _prefixed("conditioner.embedders.0.transformer.", first)
        return {**own, **_prefixed("conditioner.embedders.1.model.", clip_in_openclip(second))}
    if width == 768:
        return _prefixed("cond_stage_model.transformer.", first)
    if width == 1024:
        return _prefixed("cond_stage_model.model.", clip_in_openclip(first))
    raise CheckpointNameError(
        f"a network with text encodings of width {width} is no SD1.5 (768), SD2.x (1024) or SDXL (2048), so programs "
        "that open single files do not know it; use the folder in diffusers' format"
    )


def _clip(encoder: Any) -> dict[str, Tensor]:
    """The weights of a CLIP text encoder under the names of older versions of transformers, ``text_model.*``."""
    state = {} if encoder is None else encoder.state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    return {
        name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": tensor
        for name, tensor in kept.items()
    }


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _markers(pipeline: Any, unet: Any) -> dict[str, Tensor]:
    """Empty tensors by which programs know SDXL checkpoints with v-prediction and zero terminal SNR."""
    config = pipeline.scheduler.config
    if unet.config.addition_embed_type != SDXL_EMBEDDING or config.get("prediction_type") != "v_prediction":
        return {}
    names = ["v_pred", *(["ztsnr"] if config.get("rescale_betas_zero_snr") else [])]
    return {name: torch.zeros(0) for name in names}
