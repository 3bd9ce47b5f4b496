"""Diff2Flow KSampler: convert, schedule and sample in one node."""

from typing import Any

from comfy_api.latest import io

from .. import host
from ..widgets import CATEGORY, denoise_input, grid_input, solver_input, solver_settings, steps_input
from .levels import flow_levels
from .ode import OdeSampler


class D2FKSampler(io.ComfyNode):
    """Samples a LATENT along the flow; converts the model first if that was not done."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FKSampler",
            display_name="Diff2Flow KSampler",
            category=CATEGORY,
            description="The KSampler of flow matching in one node: takes a diffusion model, a converted or a native "
            "flow model, and integrates the flow with the solver and grid you choose.",
            search_aliases=["diff2flow", "flow ksampler", "flow matching sampler", "convert and sample"],
            inputs=[
                io.Model.Input("model", tooltip="Diffusion model (converted here, starting at t_min) or flow model."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise; the same seed gives the same noise as in the stock KSampler.",
                ),
                steps_input(),
                io.Float.Input(
                    "cfg",
                    default=8.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Classifier-free guidance: 1 is none, higher follows the prompt more closely.",
                ),
                solver_input(),
                grid_input(),
                io.Conditioning.Input("positive", tooltip="What the image should show."),
                io.Conditioning.Input("negative", tooltip="What the image should not show."),
                io.Latent.Input("latent_image", tooltip="Latents to start from; a noise mask on them is respected."),
                denoise_input("1 replaces the latent, lower values keep more of it (image to image), 0 returns it."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The denoised latents."),
                io.Int.Output(display_name="nfe", tooltip="Number of model evaluations (NFE) that the solver used."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        seed: int,
        steps: int,
        cfg: float,
        solver: dict[str, Any],
        grid: dict[str, Any],
        positive,
        negative,
        latent_image: dict[str, Any],
        denoise: float,
    ) -> io.NodeOutput:
        if denoise <= 0:
            return io.NodeOutput(latent_image, 0)
        model = model if host.is_flow(model) else host.convert(model)
        counts: list[int] = []
        sampler = host.make_sampler(OdeSampler(**solver_settings(solver), on_done=counts.append))
        levels = flow_levels(model, grid, steps, denoise)
        latent = host.sample(model, latent_image, positive, negative, cfg, sampler, levels, seed)
        return io.NodeOutput(latent, sum(counts))
