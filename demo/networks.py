"""The demo checkpoint, built from the classes of the host, ComfyUI; no other file here needs `comfy` on import.

UNet: `UNetModel` with Stable Diffusion's layout (residual blocks, cross-attention at half resolution) in a
`BaseModel` with eps-prediction and the default SD schedule, or its twin that was fine-tuned to native flow matching
(`train_twin`), in a `BaseModel` with flow sampling. Text: the host's CLIP text model with a small
vocabulary. VAE: the host's TAESD. Latents are (B, 4, H/8, W/8), about N(0, 1) per channel, scale 1.
All computation is in float32; the files hold float16.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import comfy.clip_model
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from safetensors.torch import load_file

from .widening import widen

IMAGE_SIZE = 96
MAX_TOKENS = 24
VOCAB_SIZE, START_TOKEN, END_TOKEN = 829, 827, 828
CONTEXT_DIM = 128
TOKENIZER = Path(__file__).resolve().parent / "tokenizer"
WEIGHTS = Path(__file__).resolve().parent / "weights"

UNET_CONFIG = {
    "image_size": IMAGE_SIZE // 8, "in_channels": 4, "out_channels": 4, "model_channels": 64,
    "num_res_blocks": [1, 1, 1], "channel_mult": [1, 2, 2], "transformer_depth": [0, 1, 0],
    "transformer_depth_middle": 0, "transformer_depth_output": [0, 0, 1, 1, 0, 0],
    "use_spatial_transformer": True, "use_linear_in_transformer": True, "context_dim": CONTEXT_DIM,
    "use_temporal_attention": False, "adm_in_channels": None, "legacy": False,
}  # fmt: skip

CLIP_CONFIG = {
    "vocab_size": VOCAB_SIZE, "eos_token_id": END_TOKEN, "max_position_embeddings": MAX_TOKENS,
    "num_hidden_layers": 2, "hidden_size": CONTEXT_DIM, "num_attention_heads": 4, "intermediate_size": 256,
    "hidden_act": "quick_gelu",
}  # fmt: skip


class DemoLatentFormat(comfy.latent_formats.LatentFormat):
    """Latents of the demo VAE: scale 1, with preview colours fitted by least squares."""

    scale_factor = 1.0
    weights = WEIGHTS

    def __init__(self):
        path = self.weights / "latent_rgb.json"
        if path.exists():
            fitted = json.loads(path.read_text(encoding="ascii"))
            self.latent_rgb_factors = fitted["factors"]
            self.latent_rgb_factors_bias = fitted["bias"]


class DemoConfig(comfy.supported_models_base.BASE):
    """Configuration for the host's BaseModel; eps-prediction is the default of the base class.

    `text_model` gives the class of the text encoder, whose own attributes name those of its parts.
    """

    unet_config = UNET_CONFIG
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = DemoLatentFormat
    memory_usage_factor = 1.0

    def clip_target(self, state_dict: dict | None = None) -> comfy.supported_models_base.ClipTarget:
        """Classes of the tokenizer and of the text encoder."""
        text = self.text_model()
        return comfy.supported_models_base.ClipTarget(text.tokenizer, text)

    @staticmethod
    def text_model() -> "type[DemoTextModel]":
        """Class of the text encoder."""
        return DemoTextModel


class FlowDemoConfig(DemoConfig):
    """The same for a native flow model: eps - x0 at timestep 1000 s, no shift, as behind ModelSamplingSD3."""

    sampling_settings = {"shift": 1.0}

    def model_type(self, state_dict: dict, prefix: str = "") -> comfy.model_base.ModelType:
        """Flow sampling."""
        return comfy.model_base.ModelType.FLOW


class VDemoConfig(DemoConfig):
    """The same for v-prediction."""

    def model_type(self, state_dict: dict, prefix: str = "") -> comfy.model_base.ModelType:
        """Diffusion sampling of a v-prediction network."""
        return comfy.model_base.ModelType.V_PREDICTION


class DemoModel(NamedTuple):
    """Which weights to load, and what the host is told that they are."""

    file: str
    config: type[DemoConfig]


MODELS: Mapping[str, DemoModel] = MappingProxyType(
    {
        "diffusion": DemoModel("unet", DemoConfig),
        "flow": DemoModel("unet_flow", FlowDemoConfig),
        "flow, loaded as eps": DemoModel("unet_flow", DemoConfig),
    }
)
DIFFUSION, CONFIG = "diffusion", DemoConfig


class DemoWordTokenizer(comfy.sd1_clip.SDTokenizer):
    """The host's tokenizer with the demo vocabulary; `tokens` per chunk."""

    folder, tokens = TOKENIZER, MAX_TOKENS

    def __init__(self, embedding_directory=None, tokenizer_data: dict | None = None):
        super().__init__(
            tokenizer_path=str(self.folder), max_length=self.tokens, embedding_size=CONTEXT_DIM,
            embedding_key="clip_demo", embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {},
        )  # fmt: skip


class DemoTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """Tokenizer of a single CLIP, named "l" as in Stable Diffusion 1."""

    words = DemoWordTokenizer

    def __init__(self, embedding_directory=None, tokenizer_data: dict | None = None):
        super().__init__(
            embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {}, tokenizer=self.words
        )


class SmallVocabularyText(comfy.clip_model.CLIPTextModel):
    """The host's CLIP text model with the vocabulary of its configuration instead of the 49408 that its class fixes."""

    def __init__(self, config_dict, dtype, device, operations):
        super().__init__(config_dict, dtype, "meta", operations)
        self.to_empty(device=device or "cpu")
        self.set_input_embeddings(
            operations.Embedding(config_dict["vocab_size"], config_dict["hidden_size"], dtype=dtype, device=device)
        )


class DemoClip(comfy.sd1_clip.SDClipModel):
    """The text encoder; its conditioning is the last layer after the final norm, (1, MAX_TOKENS, CONTEXT_DIM)."""

    config = MappingProxyType(CLIP_CONFIG)

    def __init__(self, device="cpu", dtype=None, model_options: dict | None = None):
        end = self.config["eos_token_id"]
        super().__init__(
            device=device, dtype=dtype, max_length=self.config["max_position_embeddings"],
            special_tokens={"start": end - 1, "end": end, "pad": end}, textmodel_json_config=dict(self.config),
            model_class=SmallVocabularyText, return_projected_pooled=False, model_options=model_options or {},
        )  # fmt: skip


class DemoTextModel(comfy.sd1_clip.SD1ClipModel):
    """The text encoder under the interface that CLIPTextEncode uses."""

    tokenizer, encoder = DemoTokenizer, DemoClip

    def __init__(self, device="cpu", dtype=None, model_options: dict | None = None):
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=self.encoder)


def new_unet_model(
    device: torch.device | str = "cpu", config: type[DemoConfig] = DemoConfig
) -> comfy.model_base.BaseModel:
    """The model in float32, with uninitialised weights (the host's layers skip initialisation)."""
    config = config(config.unet_config)
    config.set_inference_dtype(torch.float32, None)
    return config.get_model({}, device=device)


def new_text_model(config: type[DemoConfig] = DemoConfig) -> DemoTextModel:
    """The text encoder in float32 on the CPU, with uninitialised weights."""
    return config.text_model()(device="cpu", dtype=torch.float32)


def load_model(
    weights: Path, model: str | DemoModel = DIFFUSION, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """MODEL: the UNet in the host's patcher, including the recipe for loading it again.

    weights: folder that holds the weights.
    model: one of MODELS, or a model of another world.
    disable_dynamic: use the plain patcher instead of the one that moves weights at run time; the host passes it when
        it copies a MODEL through `cached_patcher_init`, as its trainer, multi-GPU and compile nodes do.
    """
    management, patchers = comfy.model_management, comfy.model_patcher
    file, config = MODELS[model] if isinstance(model, str) else model
    offload = management.unet_offload_device()
    base = new_unet_model(offload, config)
    state = {k: v.float() for k, v in load_file(weights / f"{file}.safetensors").items()}
    base.diffusion_model.load_state_dict(state)
    base.eval()
    usual = getattr(patchers, "CoreModelPatcher", patchers.ModelPatcher)
    kind = patchers.ModelPatcher if disable_dynamic else usual
    patcher = kind(base, load_device=management.get_torch_device(), offload_device=offload)
    patcher.cached_patcher_init = (load_model, (weights, model))
    return patcher


def load_clip(weights: Path, config: type[DemoConfig] = DemoConfig) -> comfy.sd.CLIP:
    """CLIP: text encoder and tokenizer."""
    target = config(config.unet_config).clip_target()
    target.params = {}
    state = load_file(weights / "clip.safetensors")
    clip = comfy.sd.CLIP(
        target, parameters=sum(v.numel() for v in state.values()), model_options={"dtype": torch.float32}
    )
    clip.load_sd({k: v.float() for k, v in state.items()}, full_model=True)
    return clip


def load_vae(weights: Path) -> comfy.sd.VAE:
    """VAE: the narrow autoencoder, zero-padded to the host's TAESD."""
    return comfy.sd.VAE(sd=widen(load_file(weights / "vae.safetensors")), dtype=torch.float32)


def load_demo_checkpoint(folder: Path | str = WEIGHTS, model: str | DemoModel = DIFFUSION) -> tuple:
    """(MODEL, CLIP, VAE) as a stock checkpoint loader returns them.

    folder: folder that holds the weights of the model, clip.safetensors and vae.safetensors.
    model: one of MODELS, or a model of another world.
    Raises FileNotFoundError that names the missing file.
    """
    folder = Path(folder)
    file, config = MODELS[model] if isinstance(model, str) else model
    for name in (file, "clip", "vae"):
        if not (folder / f"{name}.safetensors").is_file():
            raise FileNotFoundError(
                f"demo weights: {folder / name}.safetensors is missing; copy the pack's demo/weights folder again"
            )
    return load_model(folder, model), load_clip(folder, config), load_vae(folder)
