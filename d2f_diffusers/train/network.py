"""The network of a diffusers pipeline, as the training needs it.

    (network_input, timestep, conditioning kwargs) -> model output, float32

Its layers have the original's names (``layout``), so that a run here is the run of the node: the same layers, the same
first values, the same file.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, autocast

from d2f_core import FlowAlignment

from ..layout import SDXL_EMBEDDING, original_view
from ..levels import PREDICTION_TYPES, table_of_comfyui

Condition = Mapping[str, Tensor]
"""Conditioning kwargs, name -> tensor (B, ...): "c_crossattn", for SDXL "pooled" and "sizes", and ``CONCAT``."""

CONCAT = "c_concat"
"""The latent of an image condition, in the model's own scale."""
FIRST_CONV = "input_blocks.0.0"

COMPUTE_DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Width of the text's encoding -> ComfyUI's name for the kind of model, as LoRA files have it.
_KINDS = {768: "SD15", 1024: "SD20", 2048: "SDXL", 1280: "SDXLRefiner", 128: "DemoConfig"}
SIZES = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")  # the order of SDXL's time_ids


class PipelineNetwork:
    """A pipeline's UNet, with its text encoders and VAE.

    Frozen, the UNet is in ``dtype``. If its own weights are trained, these are float32, and what is computed with them
    is cast.

    Args:
        pipeline: the pipeline.
        device: where it computes.
        precision: a name of ``COMPUTE_DTYPES``.
        checkpointing: recompute blocks in the backward pass.
        trained: whether the UNet's own weights are trained.
        widened: whether its first convolution takes an image condition as well.

    Attributes:
        pipeline, device: as given.
        dtype: type that it computes in.
        module: the UNet's layers under the original's names.
        alignment: schedule and prediction type.
        kind: ComfyUI's name for the kind of model.
        widened: paths in ``module`` of convolutions that are wider than the checkpoint's.

    Raises:
        ValueError: the pipeline has no UNet of SD1.5, SD2.x or SDXL, or is a flow matching model.
    """

    def __init__(
        self,
        pipeline: Any,
        device: torch.device,
        precision: str,
        checkpointing: bool,
        trained: bool = False,
        widened: bool = False,
    ) -> None:
        unet = getattr(pipeline, "unet", None)
        if unet is None or type(unet).__name__ != "UNet2DConditionModel":
            raise ValueError(
                f"{type(pipeline).__name__} has no UNet2DConditionModel, the network of SD1.5, SD2.x and SDXL; train "
                "one of those"
            )
        if unet.config.in_channels != pipeline.vae.config.latent_channels:
            raise ValueError(
                f"this UNet takes {unet.config.in_channels} channels, but latents have "
                f"{pipeline.vae.config.latent_channels}: it is one for inpainting or image to image; train those with "
                "the node in ComfyUI"
            )
        self.pipeline, self.device = pipeline, device
        self.dtype = COMPUTE_DTYPES[precision] or unet.dtype
        self.encoders = [pipeline.vae, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)]
        for part in (unet, *self.encoders):
            _own_memory(part)
        self.channels = int(unet.config.in_channels)
        self.widened = (FIRST_CONV,) if widened else ()
        if widened:
            widen(unet)
        self.held = torch.float32 if trained else self.dtype
        self.unet = unet.requires_grad_(trained).eval().to(device)
        if self.held != unet.dtype:
            self.unet.to(self.held)
        if checkpointing:
            self.unet.enable_gradient_checkpointing()
        _pass_contiguous(self.unet)
        self.module = original_view(self.unet)
        self.alignment = _alignment(pipeline.scheduler.config)
        self.is_xl = unet.config.addition_embed_type == SDXL_EMBEDDING
        self.kind = _KINDS.get(unet.config.cross_attention_dim, "SDXL" if self.is_xl else "")
        self._scale = float(pipeline.vae.config.scaling_factor)

    def __call__(self, network_input: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The network's answer, (B, *), float32."""
        given = {name: value.to(self.device, self.held) for name, value in condition.items()}
        added = {"text_embeds": given["pooled"], "time_ids": given["sizes"]} if self.is_xl else None
        time = timestep.to(self.device, torch.float32)
        x = network_input.to(self.held)
        if CONCAT in given:
            x = torch.cat([x, given[CONCAT]], dim=1)
        with self.casting():
            out = self.unet(x, time, given["c_crossattn"], added_cond_kwargs=added)
        return out.sample.float()

    def casting(self) -> AbstractContextManager[Any]:
        """Computation in ``dtype``, where weights of another type are trained."""
        if self.held == self.dtype:
            return nullcontext()
        return autocast(self.device.type, self.dtype)

    def latents(self, samples: Tensor) -> Tensor:
        """Samples of the VAE in the model's own scale, on the device, float32."""
        return samples.to(self.device, torch.float32) * self._scale

    def move_encoders(self, device: torch.device | str) -> None:
        """Put VAE and text encoders on a device: training needs none of them, encoding and pictures do."""
        for part in self.encoders:
            if part is not None:
                part.to(device)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor, names: Sequence[str] = ()) -> Tensor:
        """Latents of images (B, H, W, 3) in [0, 1], as the VAE returns them, on the CPU; their mean where it is one.

        Raises:
            ValueError: the VAE overflows; names the images.
        """
        self.move_encoders(self.device)
        vae = self.pipeline.vae
        found = vae.encode((pixels.movedim(-1, 1) * 2 - 1).to(self.device, vae.dtype))
        latents = (found.latents if hasattr(found, "latents") else found.latent_dist.mode()).float().cpu()
        spoilt = (~torch.isfinite(latents).flatten(1).all(1)).nonzero().flatten().tolist()
        if spoilt:
            which = ", ".join(names[row] if names else f"image {row + 1}" for row in spoilt)
            raise ValueError(f"the VAE overflows in {vae.dtype} for {which}; use a VAE in float32, or leave these out")
        return latents

    @torch.no_grad()
    def encode_caption(self, caption: str) -> list:
        """CONDITIONING of a caption, [[context (1, tokens, C), {"pooled_output": ...}]], on the CPU."""
        self.move_encoders(self.device)
        options = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        found = self.pipeline.encode_prompt(prompt=caption, device=self.device, **options)
        context, pooled = (found[0], found[2]) if self.is_xl else (found[0], None)
        options = {} if pooled is None else {"pooled_output": pooled.float().cpu()}
        return [[context.float().cpu(), options]]

    def condition(self, conditioning: Any, sizes: Mapping[str, int] | None = None) -> Condition:
        """Conditioning kwargs of a CONDITIONING's first entry, tensors (1, ...); ``sizes`` are SDXL's, in pixels."""
        context, options = conditioning[0]
        if not self.is_xl:
            return {"c_crossattn": context}
        known = {**options, **(sizes or {})}
        numbers = torch.tensor([[float(known[name]) for name in SIZES]])
        return {"c_crossattn": context, "pooled": options["pooled_output"], "sizes": numbers}


def widen(unet: Any) -> None:
    """Make the first convolution take twice as many channels, with half of its weights for each half.

    Given the same latent twice, the network returns what it returned, as after the node Add Image Condition.
    """
    conv = unet.conv_in
    wide = type(conv)(2 * conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)
    half = conv.weight.detach() / 2
    wide.weight, wide.bias = torch.nn.Parameter(torch.cat([half, half], dim=1)), conv.bias
    unet.conv_in = wide
    unet.register_to_config(in_channels=2 * conv.in_channels)


def _own_memory(module: Any) -> None:
    """Copy weights out of the mapped file: where they lie there changes the last bit of products on the CPU."""
    for weight in module.parameters() if module is not None else ():
        weight.data = weight.data.clone()


def _pass_contiguous(unet: Any) -> None:
    """Copy what enters a transformer's first linear layer into the usual order of memory, as ComfyUI does.

    For a batch of one, diffusers passes a transposed view, with which the gradients differ in their last bit.
    """
    for layer in unet.modules():
        if type(layer).__name__ == "Transformer2DModel":
            linear = isinstance(layer.proj_in, torch.nn.Linear)
            first = layer.proj_in if linear else layer.transformer_blocks[0]
            first.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))


def _alignment(config: Mapping[str, Any]) -> FlowAlignment:
    from ..schedulers import Diff2FlowEulerScheduler

    known = Diff2FlowEulerScheduler.from_config(config).config
    return FlowAlignment(table_of_comfyui(known), PREDICTION_TYPES[known["prediction_type"]])
