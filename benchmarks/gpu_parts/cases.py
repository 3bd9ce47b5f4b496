"""What is measured: a model in its true shape with random weights made on the device, and the data for it."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Tensor

from diff2flow_kit.demo import networks
from diff2flow_kit.nodes import host

_SHARED = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "legacy": False,
           "use_spatial_transformer": True, "use_temporal_attention": False}  # fmt: skip
CONFIGS = {
    "sd15": {
        **_SHARED, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "use_linear_in_transformer": False,
        "adm_in_channels": None, "context_dim": 768, "num_heads": 8, "num_head_channels": -1,
    },
    "sdxl": {
        **_SHARED, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "use_linear_in_transformer": True, "adm_in_channels": 2816, "num_classes": "sequential", "context_dim": 2048,
        "num_heads": -1, "num_head_channels": 64,
    },
}  # fmt: skip
KINDS = {"sd15": "SD15", "sdxl": "SDXL"}
SIZES = {"demo": 96, "sd15": 512, "sdxl": 1024}
TEXTS = {"demo": (24, 128), "sd15": (77, 768), "sdxl": (77, 2048)}
"""Tokens and width of a caption."""


def random_model(name: str, dtype: torch.dtype = torch.bfloat16, disable_dynamic: bool = False) -> Any:
    """MODEL of a true shape; its weights keep activations of about 1, and the same ones come each time."""
    config = getattr(comfy.supported_models, KINDS[name])(dict(CONFIGS[name]))
    config.set_inference_dtype(dtype, torch.bfloat16)
    device = comfy.model_management.get_torch_device()
    base = config.get_model({}, device=device)
    generator = torch.Generator(device).manual_seed(0)
    for key, weight in base.diffusion_model.named_parameters():
        values = torch.full(weight.shape, float(key.endswith("weight")), device=device)
        if weight.ndim > 1:
            values = torch.randn(weight.shape, generator=generator, device=device) * weight[0].numel() ** -0.5
        weight.data = values.to(dtype)
    base.eval()
    patchers = comfy.model_patcher
    kind = patchers.ModelPatcher if disable_dynamic else patchers.CoreModelPatcher
    if kind is not patchers.ModelPatcher:
        base.to("cpu")  # the dynamic patcher fetches weights from there
    patcher = kind(base, load_device=device, offload_device=comfy.model_management.unet_offload_device())
    patcher.cached_patcher_init = (random_model, (name, dtype))  # the stock trainer loads its copy again
    return patcher


@dataclass(frozen=True)
class Case:
    """A part of the benchmark on one model.

    Attributes:
        part, model: as in the rows.
        quick: a few steps, to see that everything runs.
        batch, pixels: of what is sampled or trained; 0 pixels for the model's own size.
        rank, rate: of the trainers, as in `trainers.task.Task`.
    """

    part: str
    model: str
    quick: bool
    batch: int = 1
    pixels: int = 0
    rank: int = 16
    rate: float = 1e-4
    items: int = 8

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.model == "demo" else torch.bfloat16

    @property
    def size(self) -> int:
        """Side of a picture in pixels."""
        return self.pixels or SIZES[self.model]

    def row(self, **values: Any) -> dict[str, Any]:
        """A row: what it is about first, absent figures left out."""
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        about = {"part": self.part, "model": self.model, "dtype": str(self.dtype).removeprefix("torch."),
                 "batch": self.batch, "size": self.size}  # fmt: skip
        found = {**about, **values, "device": device}
        return {key: value for key, value in found.items() if value is not None}

    def load(self) -> Any:
        """MODEL, on the device."""
        return networks.load_model(networks.WEIGHTS) if self.model == "demo" else random_model(self.model, self.dtype)

    def latents(self) -> Tensor:
        """Clean latents, (items, 4, h, w)."""
        side = self.size // 8
        return torch.randn(self.items, 4, side, side, generator=torch.Generator().manual_seed(1))

    def conditionings(self) -> list[Any]:
        """One CONDITIONING per item."""
        generator = torch.Generator().manual_seed(2)
        texts = torch.randn(self.items, *TEXTS[self.model], generator=generator)
        pooled = torch.randn(self.items, 1280, generator=generator)
        options = [{"pooled_output": row[None]} if self.model == "sdxl" else {} for row in pooled]
        return [[[text[None], extra]] for text, extra in zip(texts, options)]

    def conditions(self, model: Any) -> dict[str, Tensor]:
        """What the network gets beside its input and timestep, by the name of the argument, for all items."""
        with host.training(model) as network:
            each = [network.condition(one, self.latents().shape[1:]) for one in self.conditionings()]
        names = {"c_crossattn": "context"}
        return {names.get(name, name): torch.cat([one[name] for one in each]) for name in each[0]}


def free() -> None:
    """Give back what the host and torch keep on the card."""
    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.soft_empty_cache()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
