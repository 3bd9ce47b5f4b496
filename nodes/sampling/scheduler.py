"""Flow Scheduler: flow matching MODEL and a grid of flow times -> SIGMAS."""

from typing import Any

from comfy_api.latest import io

from ..checks import checked
from ..widgets import SAMPLE, denoise_input, grid_input, search_words, steps_input
from .sigmas import flow_sigmas


class D2FScheduler(io.ComfyNode):
    """Computes the sigmas of a sampling run, from where the model starts down to 0."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FScheduler",
            display_name="Flow Scheduler (Diff2Flow)",
            category=SAMPLE,
            description="Computes the sigmas for a converted or native flow matching model: uniform in flow time, "
            "shifted, at the quantiles of a logit-normal density, or from one of ComfyUI's schedulers.",
            search_aliases=search_words("D2FScheduler"),
            inputs=[
                io.Model.Input(
                    "model", tooltip="Flow matching model. Its start (s at t_min, or 1) is the first sigma."
                ),
                grid_input(),
                steps_input(),
                denoise_input(
                    "Which part of the schedule is run. 1: all of it, from noise. 0.5: the second half of a schedule "
                    "with twice the steps, for image to image. 0: none of it."
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    display_name="sigmas",
                    tooltip="Flow sigmas s = 1 - t, descending to 0; steps + 1 values in [0, 1].",
                )
            ],
        )

    @classmethod
    @checked()
    def execute(cls, model, grid: dict[str, Any], steps: int, denoise: float) -> io.NodeOutput:
        return io.NodeOutput(flow_sigmas(model, grid, steps, denoise))
