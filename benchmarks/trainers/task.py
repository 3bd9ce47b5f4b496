"""What all runners train: a model, its data, and the settings that they share."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from safetensors.torch import save_file
from torch import Tensor

from devtools.console import DevError
from devtools.paths import cache_root, locked
from diff2flow_kit.demo import networks

SD15_CONFIG = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "use_spatial_transformer": True,
    "use_linear_in_transformer": False, "use_temporal_attention": False, "adm_in_channels": None, "legacy": False,
    "context_dim": 768, "num_heads": 8,
}  # fmt: skip
SD15_BYTES = 3_440_000_000
CAPTION = {"demo": (24, 128), "sd15": (77, 768)}
"""Tokens and width of a caption."""


@dataclass(frozen=True)
class Task:
    """One model and the settings in which the runners compete."""

    model: str
    size: int
    batch: int
    rank: int
    items: int = 8
    rate: float = 5e-4

    def load(self) -> Any:
        """MODEL, as a loader node makes it: of normal tensors, or of inference tensors under inference mode."""
        if self.model == "demo":
            return networks.load_model(networks.WEIGHTS)
        path = str(sd15_checkpoint())
        return comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False)[0]

    def latents(self) -> Tensor:
        """Clean latents, (items, 4, size, size)."""
        return torch.randn(self.items, 4, self.size, self.size, generator=torch.Generator().manual_seed(1))

    def captions(self) -> Tensor:
        """Conditioning of each item, (items, tokens, width)."""
        return torch.randn(self.items, *CAPTION[self.model], generator=torch.Generator().manual_seed(2))

    def texts(self) -> list[str]:
        """A caption of each item, for who trains the text encoder."""
        return [f"a red cube, number {number}" for number in range(self.items)]

    def clip(self) -> Any:
        """CLIP of the model: the demo's, or one of SD1.5's size with random weights."""
        return networks.load_clip(networks.WEIGHTS) if self.model == "demo" else sd15_clip()

    def conditions(self, model: Any) -> dict[str, Tensor]:
        """What the network gets beside its input and timestep, by the name of the argument."""
        return {"context": self.captions()}

    def conditionings(self) -> list[Any]:
        """A CONDITIONING an item."""
        return [[[caption[None], {}]] for caption in self.captions()]


def sd15_clip() -> Any:
    """CLIP-L with random float32 weights; norms are the identity."""
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    generator = torch.Generator().manual_seed(0)
    for name, value in clip.cond_stage_model.named_parameters():
        if value.ndim > 1:
            value.data.normal_(std=0.02, generator=generator)
        else:
            value.data.fill_(float("norm" in name and name.endswith("weight")))
    return clip


def sd15_checkpoint() -> Path:
    """A file of the true shape of SD1.5's UNet with random float32 weights (3.4 GB); made once, kept in the cache."""
    path = cache_root() / "benchmarks" / "random_sd15_fp32.safetensors"
    with locked(path.with_suffix(".lock")):  # runners start at the same time
        if not path.exists():
            if shutil.disk_usage(path.parent).free < 1.2 * SD15_BYTES:
                raise DevError(
                    f"bench training writes a model of 3.4 GB to {path.parent}; free some space, or use --models demo"
                )
            save_file(random_weights(), str(path.with_suffix(".partial")))
            path.with_suffix(".partial").replace(path)
    return path


def random_weights() -> dict[str, Tensor]:
    """Key in a checkpoint -> values of the scale that keeps activations about 1."""
    meta = openaimodel.UNetModel(
        **SD15_CONFIG, dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init
    )
    generator = torch.Generator().manual_seed(0)

    def values(name: str, like: Tensor) -> Tensor:
        if like.ndim == 1:
            return torch.full(like.shape, float(name.endswith("weight")))
        return torch.randn(like.shape, generator=generator) * like[0].numel() ** -0.5

    return {f"model.diffusion_model.{name}": values(name, like) for name, like in meta.state_dict().items()}
