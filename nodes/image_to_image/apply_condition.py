"""Apply Image Condition: CONDITIONINGs and a LATENT -> CONDITIONINGs that carry the latent."""

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io

from .. import host
from ..widgets import IMAGE_TO_IMAGE, search_words


class D2FApplyCondition(io.ComfyNode):
    """Adds the latent of an image to positive and negative as concat conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FApplyCondition",
            display_name=host.APPLY_NODE,
            category=IMAGE_TO_IMAGE,
            description="Conditions a model from Add Image Condition on an image: adds the image's latent to the "
            "conditionings, for use with any sampler.",
            search_aliases=search_words("D2FApplyCondition"),
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="A prompt like those the model was trained with: a caption, or the empty prompt.",
                ),
                io.Latent.Input(
                    "condition",
                    tooltip="Latent of the image, from VAE Encode, in the size that is sampled. Item i of a batch "
                    "conditions item i of the sampler's latents; a single item conditions all of them.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Negative prompt for guidance; gets the same latent. If it is not connected, positive is "
                    "used.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler."),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="For the sampler, whose negative input must be connected even at CFG 1, where it has no "
                    "effect.",
                ),
            ],
        )

    @classmethod
    def execute(cls, positive: Any, condition: Mapping[str, Any], negative: Any = None) -> io.NodeOutput:
        samples = condition["samples"]
        if samples.ndim != 4 or not bool(torch.isfinite(samples).all()):
            raise ValueError(
                f"'condition' is a latent of shape {tuple(samples.shape)}; it must have the shape (batch, channels, "
                "height, width) and finite values only: encode the image with the model's own VAE, in float32 if "
                "necessary"
            )
        conditioned = host.with_condition(positive, samples)
        return io.NodeOutput(conditioned, conditioned if negative is None else host.with_condition(negative, samples))
