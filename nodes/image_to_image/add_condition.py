"""Add Image Condition: MODEL -> MODEL that takes a second latent, concatenated with the noisy one."""

from typing import Any

from comfy_api.latest import io

from .. import host
from ..widgets import IMAGE_TO_IMAGE, search_words


class D2FImageCondition(io.ComfyNode):
    """Widens the first convolution of a clone from C to 2C input channels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FImageCondition",
            display_name=host.CONDITION_NODE,
            category=IMAGE_TO_IMAGE,
            description="Adds concat conditioning to a model (SD1.5, SD2.1, SDXL): its first convolution takes the "
            "latent of an image beside the noisy latent, each with half of the original weights. Before training, two "
            "equal inputs give the output that one gave before. Train it on pairs through the trainer's input "
            "'condition', to predict depth from an image or an image from edges or masks.",
            search_aliases=search_words("D2FImageCondition"),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Plain text-to-image checkpoint, converted to flow matching or not. LoRAs applied before "
                    "or after this node are kept.",
                )
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For the trainer, or for a sampler whose conditionings come from 'Apply Image Condition'. "
                    "The input model is not changed.",
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        return io.NodeOutput(host.widen(model))
