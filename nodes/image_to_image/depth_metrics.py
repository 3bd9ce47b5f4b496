"""Depth Metrics: predicted and true depth -> AbsRel, delta1 and a table of all scores."""

from comfy_api.latest import io
from torch import Tensor

from ...d2f_core import SPACES, DepthScores, depth_scores
from ..checks import checked
from ..widgets import IMAGE_TO_IMAGE, search_words
from .depth_inputs import as_depth, depth_input, valid_input


class D2FDepthMetrics(io.ComfyNode):
    """Aligns predictions in scale and shift and measures the remaining error."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FDepthMetrics",
            display_name="Depth Metrics (Diff2Flow)",
            category=IMAGE_TO_IMAGE,
            description="Compares a depth prediction with true depth after fitting scale and shift to each image by "
            "least squares, as a single image does not determine them. Reports AbsRel, delta1 to delta3 and RMSE.",
            search_aliases=search_words("D2FDepthMetrics"),
            inputs=[
                depth_input(
                    "prediction",
                    "Predicted depth, such as 'depth' from Depth from Image. Scale and shift do not matter.",
                ),
                depth_input("target", "True metric depth in any unit, larger is farther; same size as the prediction."),
                io.Combo.Input(
                    "space",
                    options=list(SPACES),
                    default="log",
                    tooltip="What the prediction represents, up to scale and shift. log: the logarithm of depth, as "
                    "from Depth from Image. depth: depth itself (Marigold). disparity: 1 / depth (MiDaS, Depth "
                    "Anything).",
                ),
                valid_input(),
            ],
            outputs=[
                io.Float.Output(
                    display_name="absrel",
                    tooltip="Mean of abs(predicted - true) / true; 0 is perfect. Averaged over the images.",
                ),
                io.Float.Output(
                    display_name="delta1",
                    tooltip="Fraction of pixels within a factor of 1.25 of the truth; 1 is perfect. Averaged over the "
                    "images.",
                ),
                io.String.Output(display_name="report", tooltip="All scores, per image and on average."),
            ],
        )

    @classmethod
    @checked()
    def execute(cls, prediction: Tensor, target: Tensor, space: str, valid: Tensor | None = None) -> io.NodeOutput:
        mask = None if valid is None else as_depth(valid)
        scores = depth_scores(as_depth(prediction), as_depth(target), mask, space)
        mean = scores.mean()
        return io.NodeOutput(float(mean.absrel), float(mean.delta1), _report(scores, mean))


def _report(scores: DepthScores, mean: DepthScores) -> str:
    """A table with one row per image and their mean, and a line on predictions whose depth is inverted."""
    rows: list[tuple[str, ...]] = [("image", "AbsRel", "delta1", "delta2", "delta3", "RMSE")]
    for number in range(len(scores.absrel)):
        rows.append(_row(str(number + 1), scores, number))
    rows.append(_row("mean", mean, 0))
    lines = [" ".join(f"{cell:>8}" for cell in row) for row in rows]
    inverted = [str(number) for number, scale in enumerate(scores.scale.tolist(), 1) if scale < 0]
    if inverted:
        lines.append(f"Near and far are exchanged in the prediction of image {', '.join(inverted)}; check 'space'.")
    return "\n".join(lines)


def _row(name: str, scores: DepthScores, number: int) -> tuple[str, ...]:
    return (name, *(f"{float(score[number]):.4f}" for score in scores[:5]))
