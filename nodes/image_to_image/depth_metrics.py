"""Depth Metrics: predicted and true depth -> AbsRel, delta1 and a table."""

from comfy_api.latest import io
from torch import Tensor

from ...d2f_core import SPACES, DepthScores, depth_scores
from ..widgets import CATEGORY
from .depth_inputs import as_depth, depth_input, valid_input


class D2FDepthMetrics(io.ComfyNode):
    """Aligns predictions by scale and shift and measures what is left."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FDepthMetrics",
            display_name="Depth Metrics (Diff2Flow)",
            category=CATEGORY,
            description="Measures a depth prediction against true depth, up to scale and shift: both are fitted to "
            "each image by least squares first, as no single image tells them. AbsRel, delta1 to delta3 and RMSE.",
            search_aliases=["diff2flow depth", "absrel", "delta1", "depth evaluation", "affine invariant", "rmse"],
            inputs=[
                depth_input(
                    "prediction", "Predicted depth, such as 'depth' of Depth from Image. Scale and shift do not matter."
                ),
                depth_input("target", "True metric depth in any unit, larger is farther; of the prediction's size."),
                io.Combo.Input(
                    "space",
                    options=list(SPACES),
                    default="log",
                    tooltip="What the prediction stands for, up to scale and shift. log: the logarithm of depth, as "
                    "Depth from Image gives it. depth: depth itself (Marigold). disparity: 1 / depth (MiDaS, Depth "
                    "Anything).",
                ),
                valid_input(),
            ],
            outputs=[
                io.Float.Output(
                    display_name="absrel",
                    tooltip="Mean of abs(predicted - true) / true; 0 is perfect. Mean of the images.",
                ),
                io.Float.Output(
                    display_name="delta1",
                    tooltip="Share of pixels within a factor of 1.25 of the truth; 1 is perfect. Mean of the images.",
                ),
                io.String.Output(display_name="report", tooltip="All scores, of each image and on average."),
            ],
        )

    @classmethod
    def execute(cls, prediction: Tensor, target: Tensor, space: str, valid: Tensor | None = None) -> io.NodeOutput:
        mask = None if valid is None else as_depth(valid)
        scores = depth_scores(as_depth(prediction), as_depth(target), mask, space)
        mean = scores.mean()
        return io.NodeOutput(float(mean.absrel), float(mean.delta1), _report(scores, mean))


def _report(scores: DepthScores, mean: DepthScores) -> str:
    """A table with a row an image, and the mean; says which predictions are turned around."""
    rows: list[tuple[str, ...]] = [("image", "AbsRel", "delta1", "delta2", "delta3", "RMSE")]
    for number in range(len(scores.absrel)):
        rows.append(_row(str(number + 1), scores, number))
    rows.append(_row("mean", mean, 0))
    lines = [" ".join(f"{cell:>8}" for cell in row) for row in rows]
    turned = [str(number) for number, scale in enumerate(scores.scale.tolist(), 1) if scale < 0]
    if turned:
        lines.append(f"Near and far are exchanged in the prediction of image {', '.join(turned)}; check 'space'.")
    return "\n".join(lines)


def _row(name: str, scores: DepthScores, number: int) -> tuple[str, ...]:
    return (name, *(f"{float(score[number]):.4f}" for score in scores[:5]))
