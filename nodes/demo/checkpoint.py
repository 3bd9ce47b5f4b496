"""Demo Checkpoint: MODEL, CLIP and VAE of the embedded demo model."""

from comfy_api.latest import io

from ..widgets import CATEGORY


class D2FDemoCheckpoint(io.ComfyNode):
    """Loads the small diffusion model that ships with the pack; nothing is downloaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FDemoCheckpoint",
            display_name="Demo Checkpoint (Diff2Flow)",
            category=CATEGORY,
            description="Loads a small text-to-image diffusion model of rendered scenes (eps-prediction, Stable "
            "Diffusion's noise schedule), for trying every node within a minute and without a download. Write prompts "
            "like 'a large red sphere on the left, blue background'.",
            search_aliases=["diff2flow demo", "demo model", "test checkpoint", "tiny stable diffusion"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Diffusion model (eps-prediction), not converted."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder, for CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="VAE with 4 latent channels and a downscale factor of 8."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ...demo.networks import load_demo_checkpoint

        return io.NodeOutput(*load_demo_checkpoint())
