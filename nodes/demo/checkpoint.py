"""Demo Checkpoint: MODEL, CLIP and VAE of the embedded demo model."""

from comfy_api.latest import io

from ..checks import checked
from ..widgets import DEMO, search_words

# Choices of the widget -> what demo.networks loads.
MODELS = {"diffusion (eps)": "diffusion", "flow": "flow", "flow, loaded as eps": "flow, loaded as eps"}


class D2FDemoCheckpoint(io.ComfyNode):
    """Loads one of the small models that ship with the pack; nothing is downloaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FDemoCheckpoint",
            display_name="Demo Checkpoint (Diff2Flow)",
            category=DEMO,
            description="Loads a small text-to-image model of rendered scenes, for trying every node within a minute "
            "and without a download: a diffusion model (eps-prediction, Stable Diffusion's noise schedule) or a flow "
            "model that was fine-tuned from it. Write prompts like 'a large red sphere on the left, blue background'.",
            search_aliases=search_words("D2FDemoCheckpoint"),
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(MODELS),
                    default=next(iter(MODELS)),
                    optional=True,
                    tooltip="diffusion (eps): the diffusion model, for Convert to Flow Matching. flow: its twin, a "
                    "flow model as it is. flow, loaded as eps: the twin as a checkpoint loader loads a flow checkpoint "
                    "of SDXL or SD1.5, right only behind ModelSamplingSD3.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The chosen model, not converted."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder, for CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="VAE with 4 latent channels and a downscale factor of 8."),
            ],
        )

    @classmethod
    @checked()
    def execute(cls, model: str = next(iter(MODELS))) -> io.NodeOutput:
        from ...demo.networks import load_demo_checkpoint

        return io.NodeOutput(*load_demo_checkpoint(model=MODELS[model]))
