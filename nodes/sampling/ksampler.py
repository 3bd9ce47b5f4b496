"""Flow KSampler (Diff2Flow): MODEL, CONDITIONINGs and LATENT -> LATENT; converts, schedules and samples in one node."""

from typing import Any

from comfy_api.latest import io

from .. import host
from ..checks import checked
from ..widgets import SAMPLE, denoise_input, grid_input, search_words, solver_input, solver_settings, steps_input
from .ode import OdeSampler
from .sigmas import flow_sigmas


class D2FKSampler(io.ComfyNode):
    """Samples a LATENT by integrating the flow ODE; converts the model first if it is a diffusion model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FKSampler",
            display_name="Flow KSampler (Diff2Flow)",
            category=SAMPLE,
            description="A KSampler for flow matching: takes a diffusion model, which it converts, or a converted or "
            "native flow matching model, and integrates the flow with the solver and the grid you choose.",
            search_aliases=search_words("D2FKSampler"),
            inputs=[
                io.Model.Input(
                    "model", tooltip="Diffusion model (converted here, with start t_min), or flow matching model."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise; the same seed gives the same noise as in ComfyUI's KSampler.",
                ),
                steps_input(),
                io.Float.Input(
                    "cfg",
                    default=8.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Classifier-free guidance scale: 1 disables it, higher follows the prompt more closely.",
                ),
                solver_input(),
                grid_input(),
                io.Conditioning.Input("positive", tooltip="What the image should show."),
                io.Conditioning.Input("negative", tooltip="What the image should not show."),
                io.Latent.Input("latent_image", tooltip="Latents to start from; their noise mask is respected."),
                denoise_input(
                    "1 replaces the latent, lower values keep more of it (image to image), 0 returns it unchanged."
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The denoised latents."),
                io.Int.Output(display_name="nfe", tooltip="Number of model evaluations (NFE) that the solver used."),
            ],
        )

    @classmethod
    @checked()
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
        model = host.as_flow(model, node="Flow KSampler (Diff2Flow)")
        counts: list[int] = []
        sampler = host.make_sampler(OdeSampler(**solver_settings(solver), on_done=counts.append))
        sigmas = flow_sigmas(model, grid, steps, denoise)
        latent = host.sample(model, latent_image, positive, negative, cfg, sampler, sigmas, seed)
        return io.NodeOutput(latent, sum(counts))
