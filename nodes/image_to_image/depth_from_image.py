"""Depth from Image: MODEL with a depth LoRA, and IMAGE -> relative depth as MASK and as coloured IMAGE."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...d2f_core import ensemble as align_and_merge
from ...d2f_data.plots.depth_images import COLORS, as_rgb, colorize, resize_depth, resize_image, working_size
from .. import host
from ..checks import checked
from ..sampling.ode import OdeSampler
from ..sampling.sigmas import flow_sigmas
from ..widgets import IMAGE_TO_IMAGE, search_words, seed_input

SEED_RANGE = 2**64


class D2FDepthFromImage(io.ComfyNode):
    """Samples depth conditioned on an image, once or several times, and resizes it to the image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FDepthFromImage",
            display_name="Depth from Image (Diff2Flow)",
            category=IMAGE_TO_IMAGE,
            description="Estimates the depth of images with a model that was trained for it on an image condition: "
            "encodes the image, samples from noise in a few steps, decodes and colours the result. Works with images "
            "of any size and aspect ratio.",
            search_aliases=search_words("D2FDepthFromImage"),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Model with an image condition and a depth LoRA, from Load LoRA (Diff2Flow). If it is not "
                    "a flow matching model yet, it is converted here, with sampling starting at pure noise.",
                ),
                io.Vae.Input("vae", tooltip="VAE of the model."),
                io.Image.Input("image", tooltip="Images of any size, also grey or with transparency."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt that the LoRA was trained with, usually the empty one."
                ),
                *_widgets(),
            ],
            outputs=[
                io.Image.Output(display_name="colored", tooltip="Depth in colours, in the size of the image."),
                io.Mask.Output(
                    display_name="depth",
                    tooltip="Relative log depth: 0 is near, 1 is far. In the size of the image.",
                ),
                io.Mask.Output(
                    display_name="uncertainty",
                    tooltip="Spread of the samples of the ensemble, in the unit of depth; 0 for one sample.",
                ),
                io.Int.Output(display_name="nfe", tooltip="Number of model evaluations (NFE) of all samples together."),
            ],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        model: Any,
        vae: Any,
        image: Tensor,
        positive: Any,
        steps: int,
        seed: int,
        ensemble: int,
        resolution: int,
        colors: str,
    ) -> io.NodeOutput:
        flow = _flow_model(model)
        latents = _encode(flow, vae, image, resolution)
        counts: list[int] = []
        sampler = host.make_sampler(OdeSampler("euler", on_done=counts.append))
        sigmas = flow_sigmas(flow, {"grid": "uniform"}, steps)
        conditioning = host.with_condition(positive, latents)
        # All images get the same noise, so the depth of an image does not depend on the rest of the batch.
        empty = {"samples": torch.zeros_like(latents), "batch_index": [0] * len(latents)}
        samples = []
        for number in range(ensemble):
            noise_seed = (seed + number) % SEED_RANGE
            latent = host.sample(flow, empty, conditioning, conditioning, 1.0, sampler, sigmas, noise_seed)
            samples.append(host.decode(vae, latent["samples"]).mean(-1).cpu())  # merged in float64
        depth, spread = (resize_depth(one, *image.shape[1:3]) for one in align_and_merge(torch.stack(samples)))
        depth = depth.clamp(0, 1)
        return io.NodeOutput(colorize(depth, colors), depth, spread, sum(counts))


def _widgets() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=2,
            min=1,
            max=1000,
            tooltip="Euler steps from noise, one model evaluation each. A trained depth model needs 1 or 2.",
        ),
        seed_input("Seed of the noise. Sample k of an ensemble uses seed + k."),
        io.Int.Input(
            "ensemble",
            default=1,
            min=1,
            max=100,
            tooltip="Number of samples from different noise, which are aligned and merged by their median. More "
            "samples give steadier depth and take longer.",
        ),
        io.Int.Input(
            "resolution",
            default=512,
            min=0,
            max=8192,
            step=8,
            tooltip="The image is processed at the area of a square with this side in pixels, in its own aspect ratio. "
            "Use the resolution of the LoRA's training: 512 for SD1.5, 768 for SD2.1, 1024 for SDXL, 96 for the demo "
            "model. 0 keeps the image's size.",
        ),
        io.Combo.Input(
            "colors",
            options=list(COLORS),
            default="spectral",
            tooltip="Colour map of the coloured output; near is red (spectral, turbo), yellow (viridis), white or "
            "black. The depth output does not depend on it.",
        ),
    ]


def _flow_model(model: Any) -> Any:
    """The MODEL as a flow matching model. Raises ValueError if it takes no image condition."""
    if not host.widened(model):
        raise ValueError(
            f"this model ({host.model_name(model)}) takes no image condition, so its output would not depend on the "
            f"image; put 'Load LoRA (Diff2Flow)' with a depth LoRA, or '{host.CONDITION_NODE}', before this node"
        )
    return host.as_flow(model, "noise", "Depth from Image (Diff2Flow)")


def _encode(model: Any, vae: Any, image: Tensor, resolution: int) -> Tensor:
    """Latents (B, C, h, w) of images (B, H, W, C) at the working resolution.

    Raises:
        ValueError: there is no VAE, or its latents do not fit the model.
    """
    if vae is None:
        raise ValueError("input 'vae' is empty: the connected checkpoint contains no VAE; connect a VAE loader instead")
    multiple = max(8, host.latent_factor(vae))
    height, width = working_size(*image.shape[1:3], resolution, multiple)
    latents = host.encode_images(vae, resize_image(as_rgb(image), height, width))
    shape = host.latent_shape(model, width, height)
    if latents.shape[1:] != shape:
        raise ValueError(
            f"'vae' turns images of {width} x {height} into latents of shape {tuple(latents.shape[1:])}, but the model "
            f"takes {shape}; connect the VAE that belongs to the model"
        )
    return latents
