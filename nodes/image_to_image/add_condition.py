"""Add Image Condition: MODEL -> MODEL that sees a second latent beside the noisy one."""

from typing import Any

from comfy_api.latest import io

from .. import host
from ..widgets import CATEGORY


class D2FImageCondition(io.ComfyNode):
    """Widens the first convolution of a clone from C to 2C channels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FImageCondition",
            display_name=host.CONDITION_NODE,
            category=CATEGORY,
            description="Gives a model (SD1.5, SD2.1, SDXL) a second input, for a picture that it looks at: its first "
            "layer takes twice the channels, each half with half the weights. Untrained, the model answers two equal "
            "inputs as it did one. Train it on pairs with the trainer's input 'condition': depth from an image, or an "
            "image from edges or masks.",
            search_aliases=["diff2flow", "image condition", "image to depth", "concat latent", "pix2pix", "widen"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Plain text-to-image checkpoint, converted to flow matching or not. LoRAs before or after "
                    "this node are kept.",
                )
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For the trainer, or for a sampler behind 'Apply Image Condition'. The model that came in "
                    "is not changed.",
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        return io.NodeOutput(host.widen(model))
