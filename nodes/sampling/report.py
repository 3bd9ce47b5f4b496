"""Model Report: what ComfyUI believes a MODEL to be, what its network returns, and what to do if the two differ."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...d2f_core import PREDICTIONS
from ...d2f_core.probe import LEVELS, MOST_ERROR, Finding, probe
from ...d2f_data.plots.probe_plot import plot_probe
from .. import host
from ..checks import checked
from ..widgets import SAMPLE, integer, search_words, seed_input
from .report_text import advise, describe, explain

UNTOLD = "cannot tell"


class D2FModelReport(io.ComfyNode):
    """Compares the ``model_sampling`` of a MODEL with a few answers of its network."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FModelReport",
            display_name=host.REPORT_NODE,
            category=SAMPLE,
            description="Tells what a checkpoint is: whether its network predicts the noise (eps), v, the clean latent "
            "(x0) or a flow, whether ComfyUI reads it so, and which node to put behind the loader if not. It mixes "
            "known noise into images and asks the network six times. Says that it cannot tell rather than guess.",
            search_aliases=search_words("D2FModelReport"),
            inputs=[
                io.Model.Input("model", tooltip="Model of any kind, as a loader or a node gives it, converted or not."),
                integer(
                    "count",
                    4,
                    1,
                    8,
                    "Most latents of the batch that are used. With fewer than four in the batch, "
                    "each is used with several draws of noise.",
                ),
                seed_input("Seed of the noise that is mixed into the latents."),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Prompt of the images, or an empty one. "
                    "Without it, the report says only what ComfyUI believes.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Latents of real images like those that the model "
                    "makes, encoded with the checkpoint's own VAE.",
                ),
                io.Image.Input("image", optional=True, tooltip="Images instead of latents, together with vae."),
                io.Vae.Input("vae", optional=True, tooltip="The checkpoint's own VAE, for the images."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All of it as text."),
                io.String.Output(
                    display_name="network",
                    tooltip="What the network returns: eps, v, x0, edm, flow, velocity, or cannot tell.",
                ),
                io.Boolean.Output(
                    display_name="agrees",
                    tooltip="Whether ComfyUI reads the network as the probe does; false if the probe cannot tell.",
                ),
                io.Boolean.Output(
                    display_name="is_flow",
                    tooltip="Whether the network is one of flow matching; false if the probe cannot tell.",
                ),
                io.Image.Output(display_name="chart", tooltip="Relative error of each reading over the noise levels."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        model: Any,
        count: int,
        seed: int,
        positive: Any = None,
        latent: Any = None,
        image: Tensor | None = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        belief = host.belief_of(model)
        x0 = _latents(model, count, latent, image, vae)
        finding = None if x0 is None or not positive else _probe(model, positive, x0, seed, cls.hidden.unique_id)
        lines = describe(belief, host.what_is_on(model))
        if finding is not None and x0 is not None:
            lines += ["", *explain(finding, len(x0), seed)]
        report = "\n".join([*lines, "", *advise(belief, finding)])
        name = finding.name if finding is not None else ""
        chart = plot_probe({} if finding is None else finding.errors, LEVELS, MOST_ERROR, _title(finding))
        is_flow = bool(name) and PREDICTIONS[name].is_flow
        return io.NodeOutput(report, name or UNTOLD, bool(name) and name == belief.name, is_flow, chart)


def _title(finding: Finding | None) -> str:
    if finding is None:
        return "nothing was probed"
    return f"relative error of each reading: {finding.name or UNTOLD}"


def _latents(model: Any, count: int, latent: Any, image: Tensor | None, vae: Any) -> Tensor | None:
    """Up to ``count`` latents in the scale of the MODEL, at least four rows; None if none are connected.

    Raises:
        ValueError: an input is missing, there is one too many, or the latents are none of this model's images.
    """
    if latent is not None and image is not None:
        raise ValueError("both 'latent' and 'image' are connected; connect one of the two")
    if image is not None and vae is None:
        raise ValueError("'image' needs 'vae', the checkpoint's own; connect it, or connect 'latent' instead")
    if latent is None and image is None:
        return None
    samples = latent["samples"][:count] if image is None else host.encode_images(vae, image[:count, ..., :3])
    return host.probe_latents(model, samples)


def _probe(model: Any, positive: Any, x0: Tensor, seed: int, node_id: str | None) -> Finding:
    """Probe the network, with a progress bar."""
    options, found = host.probe_candidates(model), list[Finding]()
    total = len(LEVELS) * len({one.coordinates for one in options})
    progress = host.NodeProgress(total, node_id)

    def run(call: host.NetworkCall) -> None:
        done = 0

        def ask(s: float, asked: Any) -> Tensor:
            nonlocal done
            progress.show(done, f"call {done + 1} of {total}")
            done += 1
            return call(s, asked)

        found.append(probe(ask, options, x0, seed))
        progress.show(total, f"{total} calls")

    host.probe_network(model, positive, x0.shape, LEVELS, run)
    return found[0]
