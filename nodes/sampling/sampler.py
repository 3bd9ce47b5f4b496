"""ODE Sampler: solver -> SAMPLER for SamplerCustom and SamplerCustomAdvanced."""

from typing import Any

from comfy_api.latest import io

from .. import host
from ..checks import checked
from ..widgets import SAMPLE, search_words, solver_input, solver_settings
from .ode import OdeSampler


class D2FSampler(io.ComfyNode):
    """Creates a SAMPLER that integrates the flow ODE with a fixed-step or an adaptive solver."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FSampler",
            display_name="ODE Sampler (Diff2Flow)",
            category=SAMPLE,
            description="A sampler that integrates the flow ODE from noise to image with the solver you choose. For "
            "models from Convert to Flow Matching and for native flow matching models. Its euler is identical to "
            "ComfyUI's euler sampler.",
            search_aliases=search_words("D2FSampler"),
            inputs=[solver_input()],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="SAMPLER for SamplerCustom or SamplerCustomAdvanced.")
            ],
        )

    @classmethod
    @checked()
    def execute(cls, solver: dict[str, Any]) -> io.NodeOutput:
        return io.NodeOutput(host.make_sampler(OdeSampler(**solver_settings(solver))))
