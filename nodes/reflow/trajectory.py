"""Trajectory Report: one or two MODELs -> straightness, curvature and few-step errors of their sampling paths."""

from typing import Any

from comfy_api.latest import io

from ...d2f_data.plots.path_plot import PathCurves, plot_paths
from .. import host
from ..checks import checked
from ..widgets import REFLOW, search_words, seed_input
from .guidance import check_guidance
from .path_measures import STEP_COUNTS, PathMeasures, PathSettings, measure


class D2FTrajectory(io.ComfyNode):
    """Integrates the sampling paths of one or two models from the same noise and measures them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FTrajectory",
            display_name="Trajectory Report (Diff2Flow)",
            category=REFLOW,
            description="Measures how straight a model's paths from noise to image are, where they bend, and how far "
            "from a fine-step reference 1, 2, 4 and 8 Euler steps end. Connect a second model to compare two, such as "
            "before and after reflow.",
            search_aliases=search_words("D2FTrajectory"),
            inputs=[
                io.Model.Input(
                    "model", tooltip="Diffusion model, converted to flow matching or not, or flow matching model."
                ),
                io.Conditioning.Input("positive", tooltip="Prompt of all paths, used as in a sampler."),
                *_widgets(),
                io.Model.Input("model_2", optional=True, tooltip="A second model, measured from the same noise."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Negative conditioning for guidance, usually the empty prompt. Required unless every cfg "
                    "is 1.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="straightness", tooltip="Of the first model; 0 is a straight path at constant speed."
                ),
                io.Float.Output(display_name="straightness_2", tooltip="Of the second model; 0 if none is connected."),
                io.String.Output(display_name="report", tooltip="All measures as text."),
                io.Image.Output(
                    display_name="plot", tooltip="Curvature over flow time, and error over model evaluations."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        model: Any,
        positive: Any,
        width: int,
        height: int,
        count: int,
        seed: int,
        cfg: float,
        cfg_2: float,
        reference_steps: int,
        model_2: Any = None,
        negative: Any = None,
    ) -> io.NodeOutput:
        models = [("model", model, "cfg", cfg)]
        if model_2 is not None:
            models.append(("model_2", model_2, "cfg_2", cfg_2))
        for _, one, widget, scale in models:
            check_guidance(widget, scale, negative is not None, one)
        progress = host.NodeProgress(reference_steps * len(models), cls.hidden.unique_id)
        measured: list[tuple[str, PathMeasures]] = []
        for number, (name, one, _, scale) in enumerate(models):

            def show(done: int, name: str = name, before: int = number * reference_steps) -> None:
                progress.show(before + done, f"{name}: step {done} of {reference_steps}")

            settings = PathSettings(positive, negative, scale, width, height, count, reference_steps, seed)
            measured.append((f"{name}: {host.model_name(one)}, cfg {scale:g}", measure(one, settings, show)))
        plot = plot_paths(
            [PathCurves(label, found.curvature, found.errors, found.windows) for label, found in measured]
        )
        straightness = [found.straightness for _, found in measured] + [0.0]
        return io.NodeOutput(*straightness[:2], _report(measured), plot)


def _report(measured: list[tuple[str, PathMeasures]]) -> str:
    """One paragraph per model."""
    lines = []
    for label, found in measured:
        errors = ", ".join(f"{int(nfe)}: {error:.4g}" for nfe, error in found.errors)
        peak = max(found.curvature, key=lambda point: point[1])
        mean = sum(value for _, value in found.curvature) / len(found.curvature)
        lines += [
            f"{label}, from t = {found.t_start:.4f}",
            f"  straightness {found.straightness:.4g} (0: straight)",
            *([] if found.windows == 1 else [f"  within its {found.windows} windows {found.within:.4g}"]),
            f"  curvature {mean:.4g} on average, at most {peak[1]:.4g} at t = {peak[0]:.3f}",
            f"  error of Euler by model evaluations: {errors}",
        ]
    return "\n".join(lines)


def _widgets() -> list[io.Input]:
    return [
        _int("width", 512, 16, 8192, "In pixels: 512 for SD1.5, 1024 for SDXL, 96 for the demo model.", 8),
        _int("height", 512, 16, 8192, "In pixels, like width.", 8),
        _int("count", 4, 1, 64, "Paths integrated at once; the measures are means over them."),
        seed_input("Seed of the noise at which the paths start."),
        _guidance("cfg", "Guidance scale of the first model; 1 disables guidance."),
        _guidance("cfg_2", "Guidance scale of the second model; 1 disables guidance, as suits a reflow LoRA."),
        _int(
            "reference_steps", 50, max(STEP_COUNTS) + 1, 1000, "Steps of the reference path, 2 model evaluations each."
        ),
    ]


def _int(name: str, default: int, low: int, high: int, tooltip: str, step: int = 1) -> io.Input:
    return io.Int.Input(name, default=default, min=low, max=high, step=step, tooltip=tooltip)


def _guidance(name: str, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=1.0, min=0.0, max=30.0, step=0.1, round=0.01, tooltip=tooltip)
