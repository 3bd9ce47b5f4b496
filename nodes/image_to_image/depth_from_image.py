"""Depth from Image: a depth LoRA's model and an image -> depth, in numbers and in colours."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...d2f_core import ensemble as joined
from ...d2f_data.plots.depth_images import COLORS, as_rgb, colorize, resize_depth, resize_image, working_size
from .. import host
from ..sampling.levels import flow_levels
from ..sampling.ode import OdeSampler
from ..widgets import CATEGORY, seed_input

SEEDS = 2**64


class D2FDepthFromImage(io.ComfyNode):
    """Samples depth on the condition of an image, once or several times, and restores the image's size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FDepthFromImage",
            display_name="Depth from Image (Diff2Flow)",
            category=CATEGORY,
            description="Estimates the depth of images with a model that learnt it as an image condition: encodes the "
            "image, samples from noise in a few steps, decodes, and colours the result. Any size and aspect.",
            search_aliases=["diff2flow depth", "depth estimation", "depth map", "monocular depth", "image to depth"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Model with the image condition and a depth LoRA, from Load Diff2Flow LoRA. Converted "
                    "here, starting at noise, if it is not a flow model yet.",
                ),
                io.Vae.Input("vae", tooltip="VAE of the model."),
                io.Image.Input("image", tooltip="Images of any size; grey and transparent ones, too."),
                io.Conditioning.Input(
                    "positive", tooltip="What the LoRA was trained with: the empty prompt as a rule."
                ),
                *_widgets(),
            ],
            outputs=[
                io.Image.Output(display_name="colored", tooltip="Depth in colours, of the size of the image."),
                io.Mask.Output(
                    display_name="depth",
                    tooltip="Relative logarithm of depth: 0 is near, 1 is far. Of the size of the image.",
                ),
                io.Mask.Output(
                    display_name="uncertainty",
                    tooltip="How far apart the samples of the ensemble are, in the unit of depth; 0 for one sample.",
                ),
                io.Int.Output(
                    display_name="nfe", tooltip="Number of model evaluations (NFE), of all samples together."
                ),
            ],
        )

    @classmethod
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
        levels = flow_levels(flow, {"grid": "uniform"}, steps)
        told = host.with_condition(positive, latents)
        # The same noise for all images, so that an answer does not depend on what else is in the batch.
        empty = {"samples": torch.zeros_like(latents), "batch_index": [0] * len(latents)}
        samples = []
        for number in range(ensemble):
            answer = host.sample(flow, empty, told, told, 1.0, sampler, levels, (seed + number) % SEEDS)
            samples.append(host.decode(vae, answer["samples"]).mean(-1))
        depth, spread = (resize_depth(one, *image.shape[1:3]) for one in joined(torch.stack(samples)))
        depth = depth.clamp(0, 1)
        return io.NodeOutput(colorize(depth, colors), depth, spread, sum(counts))


def _widgets() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=2,
            min=1,
            max=1000,
            tooltip="Euler steps from noise, a model evaluation each. A trained depth model needs 1 or 2.",
        ),
        seed_input("Seed of the noise. Sample k of an ensemble takes seed + k."),
        io.Int.Input(
            "ensemble",
            default=1,
            min=1,
            max=100,
            tooltip="Samples from different noise, aligned and joined by their median. More is steadier and takes "
            "longer.",
        ),
        io.Int.Input(
            "resolution",
            default=512,
            min=0,
            max=8192,
            step=8,
            tooltip="The image is worked on at the area of a square of this side, in its aspect: what the LoRA was "
            "trained with. 512 for SD1.5, 768 for SD2.1, 1024 for SDXL, 96 for the demo model. 0 keeps the size.",
        ),
        io.Combo.Input(
            "colors",
            options=list(COLORS),
            default="spectral",
            tooltip="Colours of the picture; the numbers stay the same: near is red (spectral, turbo), yellow "
            "(viridis), white or black.",
        ),
    ]


def _flow_model(model: Any) -> Any:
    """The MODEL as a flow model; raises ValueError for one that takes no image."""
    if not host.widened(model):
        raise ValueError(
            f"this model ({host.model_name(model)}) takes no image condition, so it cannot see the image; put 'Load "
            f"Diff2Flow LoRA' with a depth LoRA before this node, or '{host.CONDITION_NODE}'"
        )
    return model if host.is_flow(model) else host.convert(model, "noise")


def _encode(model: Any, vae: Any, image: Tensor, resolution: int) -> Tensor:
    """Latents of the images at the size that they are worked on, (B, C, h, w)."""
    if vae is None:
        raise ValueError("input 'vae' is empty: the checkpoint before it holds none; connect a loader for the VAE")
    multiple = max(8, host.latent_factor(vae))
    height, width = working_size(*image.shape[1:3], resolution, multiple)
    latents = host.encode_images(vae, resize_image(as_rgb(image), height, width))
    shape = host.latent_shape(model, width, height)
    if latents.shape[1:] != shape:
        raise ValueError(
            f"the VAE makes latents of shape {tuple(latents.shape[1:])} of images of {width} x {height}, but the model "
            f"works on {shape}; connect the VAE that belongs to the model"
        )
    return latents
