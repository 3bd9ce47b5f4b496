"""Plot of the paths of up to a few models: curvature over flow time, and the error of few steps."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .loss_plot import as_image, label_font

SIZE = (1000, 440)
_BOXES = ((78, 70, 480, 380), (588, 70, 980, 380))
_COLOURS = ("#1f5fb0", "#d1495b", "#2a9d5c", "#8a63c9")
_GREY, _TEXT = "#e4e4e4", "#333333"

Point = tuple[float, float]


class PathCurves(NamedTuple):
    """One model: its name, (t, curvature) along its paths, and (number of steps, error)."""

    name: str
    curvature: Sequence[Point]
    errors: Sequence[Point]


def plot_paths(models: Sequence[PathCurves]) -> Tensor:
    """An IMAGE (1, 440, 1000, 3) in [0, 1]: both on a logarithmic scale, the steps on one to the base 2."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    steps = [step for step, _ in models[0].errors]
    bent, errors = [model.curvature for model in models], [model.errors for model in models]
    _panel(draw, _BOXES[0], "curvature over flow time t", bent, [0, 0.25, 0.5, 0.75, 1], lambda t: t)
    _panel(draw, _BOXES[1], "error over model calls (Euler)", errors, steps, math.log2)
    for i, model in enumerate(models):
        x = _BOXES[0][0] + 460 * i
        draw.line([(x, 22), (x + 22, 22)], fill=_COLOURS[i], width=4)
        draw.text((x + 30, 22), model.name, fill=_TEXT, font=label_font(14), anchor="lm")
    return as_image(image)


def _panel(
    draw: Any,
    box: tuple[int, int, int, int],
    title: str,
    curves: Sequence[Sequence[Point]],
    marks: Sequence[float],
    x_of: Any,
) -> None:
    """Axes and one line a model; ``x_of`` scales the marks and the points to the right."""
    left, top, right, bottom = box
    values = [value for curve in curves for _, value in curve if math.isfinite(value) and value > 0] or [1.0]
    low, high = math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.05
    first, last = x_of(marks[0]), x_of(marks[-1])

    def place(x: float, value: float) -> Point:
        part = (math.log10(value) - low) / (high - low) if math.isfinite(value) and value > 0 else float(value > 0)
        return left + (right - left) * (x_of(x) - first) / (last - first), bottom - (bottom - top) * part

    for i in range(5):
        value = 10 ** (low + (high - low) * i / 4)
        y = place(marks[0], value)[1]
        draw.line([(left, y), (right, y)], fill=_GREY)
        draw.text((left - 8, y), f"{value:.2g}", fill=_TEXT, font=label_font(13), anchor="rm")
    for mark in marks:
        draw.text((place(mark, 1.0)[0], bottom + 8), f"{mark:g}", fill=_TEXT, font=label_font(13), anchor="ma")
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=_TEXT, width=2)
    draw.text((left, top - 16), title, fill=_TEXT, font=label_font(15), anchor="lm")
    for i, curve in enumerate(curves):
        points = [place(x, value) for x, value in curve]
        draw.line(points, fill=_COLOURS[i], width=3, joint="curve")
