"""Convert to Flow Matching: MODEL -> MODEL."""

from comfy_api.latest import io

from ...d2f_core import PREDICTIONS, STARTS
from .. import host
from ..checks import checked
from ..widgets import SAMPLE, search_words

AUTO = "auto"


class D2FConvert(io.ComfyNode):
    """Replaces ``model_sampling`` of a clone: the same network in flow matching coordinates."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FConvert",
            display_name="Convert to Flow Matching (Diff2Flow)",
            category=SAMPLE,
            description="Turns a diffusion model (SD1.5, SD2.1, SDXL, EDM) into a flow matching model: rescales "
            "timesteps, aligns the interpolants and derives the velocity from the prediction (Diff2Flow, CVPR 2025). "
            "No weights change. Conversion alone changes the coordinates, not the images: at the same noise levels, "
            "Euler gives the image that DDIM gives. The gain comes from training the converted model.",
            search_aliases=search_words("D2FConvert"),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Diffusion model: eps- or v-prediction with discrete timesteps, EDM, or continuous v. "
                    "LoRAs, ControlNets and ModelSampling patches (zero terminal SNR, EDM) applied before this node "
                    "are kept. A flow matching model is passed on unchanged, and the node says so.",
                ),
                io.Combo.Input(
                    "start",
                    options=list(STARTS),
                    default="t_min",
                    tooltip="Where sampling starts. t_min: at the highest noise level of the network's training "
                    "(s = 0.936 for Stable Diffusion), with the matching standard deviation. noise: at pure noise, "
                    "s = 1, for models trained to start there, such as reflow LoRAs.",
                ),
                io.Float.Input(
                    "shift",
                    default=1.0,
                    min=0.05,
                    max=100.0,
                    step=0.05,
                    tooltip="Shifts the noise levels that ComfyUI's own schedulers choose: above 1 towards noise "
                    "(layout), below 1 towards detail. 1 keeps the levels of the diffusion model.",
                ),
                io.Combo.Input(
                    "prediction",
                    options=[AUTO, *(name for name, row in PREDICTIONS.items() if not row.is_flow)],
                    default=AUTO,
                    tooltip="What the network predicts: the noise (eps), v, the clean latent (x0), or v with the "
                    "opposite sign (edm). auto takes it from the model; override it only for a checkpoint that is "
                    "labelled incorrectly.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="Flow matching model, for any sampler node. Its sigmas are s = 1 - t, from 0.936 (start "
                    "t_min, Stable Diffusion) or 1 (start noise) down to 0, the image.",
                )
            ],
        )

    @classmethod
    @checked()
    def execute(cls, model, start: str, shift: float, prediction: str) -> io.NodeOutput:
        chosen = None if prediction == AUTO else prediction
        if host.is_native_flow(model):
            return io.NodeOutput(host.pass_through(model, shift, chosen))
        return io.NodeOutput(host.convert(model, start, shift, chosen))
