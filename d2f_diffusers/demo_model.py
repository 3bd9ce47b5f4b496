"""The embedded demo model in diffusers' format: a StableDiffusionPipeline, made of the weights that the nodes use.

    unet.safetensors    original names -> UNet2DConditionModel
    vae.safetensors     a TAESD that is narrower at high resolutions; padded with zeros it is an AutoencoderTiny
    clip.safetensors    CLIPTextModel, and the tokenizer's files as they are

All of it computes in float32; latents have scale 1.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2f_data.files.atomic import load_tensors

from .layout import layer_names

MAX_TOKENS, VOCABULARY, START_TOKEN, END_TOKEN, WIDTH = 24, 829, 827, 828, 128
IMAGE_SIZE = 96
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def demo_folder(name: str) -> Path:
    """Where "weights" or "tokenizer" of the demo model lie: in the checkout, or in the installed package."""
    here = Path(__file__).resolve().parent
    places = (here / f"demo_{name}", here.parent / "demo" / name)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"the demo model's {name} are missing; they should be in {places[0]} or {places[1]}")
    return found


def demo_pipeline() -> Any:
    """The demo model as a StableDiffusionPipeline (eps-prediction, DDIM), in evaluation mode."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    options = {"clip_sample": False, "timestep_spacing": "trailing", "steps_offset": 1}  # pipelines want such an offset
    scheduler = DDIMScheduler(**SCHEDULE, **options)
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(),
        tokenizer=CLIPTokenizer.from_pretrained(demo_folder("tokenizer"), model_max_length=MAX_TOKENS),
        unet=_unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export_demo(folder: Path) -> Path:
    """Save the demo model for ``StableDiffusionPipeline.from_pretrained(folder)``.

    Raises:
        ValueError: the folder holds other files.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or (os.listdir(folder) and not (folder / "model_index.json").exists())):
        raise ValueError(f"{folder} exists and holds no pipeline; name a new folder, or an empty one")
    demo_pipeline().save_pretrained(folder)
    return folder


def _weights(name: str) -> dict[str, Tensor]:
    tensors, _ = load_tensors(demo_folder("weights") / f"{name}.safetensors")
    return {key: tensor.float() for key, tensor in tensors.items()}


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    unet: Any = UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 8,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 0),  # the middle one has projections only
        attention_head_dim=(2, 4, 4),  # numbers of heads, under diffusers' old name for them
        cross_attention_dim=WIDTH,
        use_linear_projection=True,
    )
    given, wanted = _weights("unet"), unet.state_dict()
    renamed = {
        f"{theirs}.{suffix}": given[f"{ours}.{suffix}"]
        for ours, theirs in layer_names(unet)
        for suffix in ("weight", "bias")
        if f"{theirs}.{suffix}" in wanted
    }
    unet.load_state_dict(renamed)
    return unet.eval()


def _vae() -> Any:
    from diffusers import AutoencoderTiny

    vae: Any = AutoencoderTiny(latent_magnitude=3, scaling_factor=1.0)
    given = _weights("vae")
    names = {"encoder.layers": "taesd_encoder", "decoder.layers": "taesd_decoder"}
    padded = {}
    for key, like in vae.state_dict().items():
        part, layer = next((name, key.removeprefix(name + ".")) for name in names if key.startswith(name))
        padded[key] = _padded(_narrow(given, names[part], layer), like)
    vae.load_state_dict(padded)
    return vae.eval()


def _narrow(given: dict[str, Tensor], part: str, layer: str) -> Tensor:
    """The weight of a layer of AutoencoderTiny; in TAESD's decoder the clamp is a layer, so numbers are one up."""
    number, _, rest = layer.partition(".")
    place = int(number) + (part == "taesd_decoder")
    return given[f"{part}.{place}.{rest}"]


def _padded(weight: Tensor, like: Tensor) -> Tensor:
    """A weight in the corner of zeros: extra channels stay at 0 in convolutions, ReLU and identity skips."""
    wide = torch.zeros_like(like)
    wide[tuple(slice(size) for size in weight.shape)] = weight
    return wide


def _text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=START_TOKEN,
            eos_token_id=END_TOKEN,
            pad_token_id=END_TOKEN,
        )
    )
    given = {key.partition("text_model.")[2]: tensor for key, tensor in _weights("clip").items()}
    names = {key: key.removeprefix("text_model.") for key in text.state_dict()}  # older transformers have the prefix
    text.load_state_dict({key: given[name] for key, name in names.items()})
    return text.eval()
