"""Trajectory Report: MODEL, or two of them -> straightness, curvature and few-step errors of their paths."""

from typing import Any

from comfy_api.latest import io

from ...d2f_data.plots.path_plot import PathCurves, plot_paths
from .. import host
from ..widgets import CATEGORY, seed_input
from .path_measures import COUNTS, ModelInput, PathMeasures, measure


class D2FTrajectory(io.ComfyNode):
    """Follows the paths of one or two models from the same noise and measures them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FTrajectory",
            display_name="Trajectory Report (Diff2Flow)",
            category=CATEGORY,
            description="Measures how straight a model's paths from noise to image are, where they bend, and how far "
            "1, 2, 4 and 8 steps end from a fine-step reference; for two models side by side, such as before and after "
            "reflow.",
            search_aliases=["diff2flow straightness", "trajectory", "curvature", "reflow report", "few step error"],
            inputs=[
                io.Model.Input("model", tooltip="Diffusion model, converted to flow matching or not."),
                io.Conditioning.Input("positive", tooltip="What the images show; the first conditioning counts."),
                *_widgets(),
                io.Model.Input("model_2", optional=True, tooltip="A second model, followed from the same noise."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="For guidance, the empty prompt as a rule. Needed where a cfg is not 1.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="straightness", tooltip="First model: 0 is a straight path at constant speed."
                ),
                io.Float.Output(
                    display_name="straightness_2", tooltip="Second model: the same; 0 if there is none connected."
                ),
                io.String.Output(display_name="report", tooltip="All numbers as a table."),
                io.Image.Output(display_name="plot", tooltip="Curvature over flow time, and error over model calls."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
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
        asked = [("model", model, cfg)] + ([] if model_2 is None else [("model_2", model_2, cfg_2)])
        progress = host.NodeProgress(reference_steps * len(asked), cls.hidden.unique_id)
        measured: list[tuple[str, PathMeasures]] = []
        for number, (name, one, guidance) in enumerate(asked):
            question = ModelInput(positive, negative, guidance, width, height, count, reference_steps, seed)

            def show(done: int, name: str = name, before: int = number * reference_steps) -> None:
                progress.show(before + done, f"{name}: step {done} of {reference_steps}")

            label = f"{name}: {host.model_name(one)}, cfg {guidance:g}"
            measured.append((label, measure(one, question, show)))
        plot = plot_paths([PathCurves(label, found.curvature, found.errors) for label, found in measured])
        straight = [found.straightness for _, found in measured]
        return io.NodeOutput(straight[0], straight[1] if model_2 is not None else 0.0, _report(measured), plot)


def _report(measured: list[tuple[str, PathMeasures]]) -> str:
    """One block a model."""
    lines = []
    for label, found in measured:
        errors = ", ".join(f"{int(nfe)}: {error:.4g}" for nfe, error in found.errors)
        peak = max(found.curvature, key=lambda point: point[1])
        middle = sum(value for _, value in found.curvature) / len(found.curvature)
        lines += [
            f"{label}, from t = {found.t_start:.4f}",
            f"  straightness {found.straightness:.4g} (0: straight)",
            f"  curvature {middle:.4g} on average, at most {peak[1]:.4g} at t = {peak[0]:.3f}",
            f"  error of Euler by model calls: {errors}",
        ]
    return "\n".join(lines)


def _widgets() -> list[io.Input]:
    return [
        _int("width", 512, 16, 8192, "In pixels: 512 for SD1.5, 1024 for SDXL, 96 for the demo model.", 8),
        _int("height", 512, 16, 8192, "In pixels, as width.", 8),
        _int("count", 4, 1, 64, "Paths that are followed at once; the numbers are their means."),
        seed_input("Seed of the noise that the paths begin at."),
        _float("cfg", "Guidance of the first model; 1 is none."),
        _float("cfg_2", "Guidance of the second model; 1 is none, as for a reflow LoRA."),
        _int("reference_steps", 50, max(COUNTS) + 1, 1000, "Steps of the fine path, 2 model calls each."),
    ]


def _int(name: str, default: int, low: int, high: int, tooltip: str, step: int = 1) -> io.Input:
    return io.Int.Input(name, default=default, min=low, max=high, step=step, tooltip=tooltip)


def _float(name: str, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=1.0, min=0.0, max=30.0, step=0.1, round=0.01, tooltip=tooltip)
