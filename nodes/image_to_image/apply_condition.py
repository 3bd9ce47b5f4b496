"""Apply Image Condition: CONDITIONINGs and a LATENT -> CONDITIONINGs that carry it."""

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io

from .. import host
from ..widgets import CATEGORY


class D2FApplyCondition(io.ComfyNode):
    """Puts the latent that a model with the image condition looks at into positive and negative."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FApplyCondition",
            display_name=host.APPLY_NODE,
            category=CATEGORY,
            description="Shows a picture to a model with the image condition: puts its latent into the conditionings, "
            "where any sampler finds it.",
            search_aliases=["diff2flow", "image condition", "concat conditioning", "image to image", "pix2pix"],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="What the model was trained with: captions, or the empty prompt."
                ),
                io.Latent.Input(
                    "condition",
                    tooltip="The picture to look at, from VAE Encode, in the size that is sampled. Item i of a batch "
                    "belongs to item i of the sampler's latents; one serves them all.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="For guidance; it sees the same picture. Empty: the positive's."
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="For the sampler; at CFG 1 it does not count, but is asked for."
                ),
            ],
        )

    @classmethod
    def execute(cls, positive: Any, condition: Mapping[str, Any], negative: Any = None) -> io.NodeOutput:
        samples = condition["samples"]
        if samples.ndim != 4 or not bool(torch.isfinite(samples).all()):
            raise ValueError(
                f"'condition' is a latent of shape {tuple(samples.shape)}; it must be (items, channels, height, width) "
                "and finite: encode the picture with the model's own VAE, in float32 if need be"
            )
        told = host.with_condition(positive, samples)
        return io.NodeOutput(told, told if negative is None else host.with_condition(negative, samples))
