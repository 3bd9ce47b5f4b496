"""Plot of the sampling paths of up to four models: curvature over flow time, and error over the number of steps."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .axes import Axes, Box, Point, draw_legend, draw_text
from .pil_images import from_pil

SIZE = (1000, 440)
_BOXES = ((78, 70, 480, 380), (588, 70, 980, 380))
_COLOURS = ("#1f5fb0", "#d1495b", "#2a9d5c", "#8a63c9")
_MARGIN = 0.05  # between the curves and the edges of the box, in powers of ten


class PathCurves(NamedTuple):
    """The curves of one model: its name, (t, curvature) along its paths, and (number of steps, error)."""

    name: str
    curvature: Sequence[Point]
    errors: Sequence[Point]
    windows: int = 1
    """Parts that were made straight; the edges between them are marked."""


def plot_paths(models: Sequence[PathCurves]) -> Tensor:
    """Plot the curves of one to four models with the same numbers of steps.

    Returns:
        IMAGE (1, 440, 1000, 3) in [0, 1]. Curvature and error have logarithmic scales, the number of steps a scale
        to the base 2.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    steps = [step for step, _ in models[0].errors]
    curvature, errors = [model.curvature for model in models], [model.errors for model in models]
    for model, colour in zip(models, _COLOURS):
        _mark_edges(draw, _BOXES[0], model.windows, colour)
    _draw_panel(draw, _BOXES[0], "curvature over flow time t", curvature, [0, 0.25, 0.5, 0.75, 1], float)
    _draw_panel(draw, _BOXES[1], "error over model calls (Euler)", errors, steps, math.log2)
    for i, model in enumerate(models):
        draw_legend(draw, (_BOXES[0][0] + 460 * i, 22), model.name, _COLOURS[i])
    return from_pil(image)


def _mark_edges(draw: Any, box: Box, windows: int, colour: str) -> None:
    """Short strokes at the edges between the windows of t."""
    left, _, right, bottom = box
    for edge in range(1, windows):
        x = left + (right - left) * edge / windows
        draw.line([(x, bottom - 12), (x, bottom)], fill=colour, width=2)


def _draw_panel(
    draw: Any,
    box: Box,
    title: str,
    curves: Sequence[Sequence[Point]],
    x_ticks: Sequence[float],
    x_scale: Callable[[float], float],
) -> None:
    """Draw axes and one curve per model."""
    values = [value for curve in curves for _, value in curve if math.isfinite(value) and value > 0] or [1.0]
    x_range, y_range = (x_ticks[0], x_ticks[-1]), (min(values), max(values))
    axes = Axes(draw, box, x_range, y_range, log_y=True, x_scale=x_scale, margin=_MARGIN)
    axes.draw_frame(x_ticks, "g", ".2g")
    draw_text(draw, (box[0], box[1] - 16), title, 15, "lm")
    for curve, colour in zip(curves, _COLOURS):
        axes.draw_curve(curve, colour, 3)
