"""The axes of a plot, drawn with Pillow, which ComfyUI requires: scales, grid, ticks and legend.

A value y is drawn at the relative height

    (f(y) - f(low)) / (f(high) - f(low))        f = log10 on a logarithmic scale, otherwise the identity

of the box. Infinite and NaN values are drawn at the upper edge, values without a logarithm at the lower edge.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

Point = tuple[float, float]
Box = tuple[int, int, int, int]

_GREY, _TEXT = "#e4e4e4", "#333333"


class Axes:
    """Axes in a box of a picture.

    Args:
        draw: Pillow's ``ImageDraw`` of the picture.
        box: left, top, right and bottom edge, in pixels.
        x_range: values of x at the left and right edge.
        y_range: smallest and largest value of y; equal ones are drawn in the middle.
        log_y: whether the scale of y is logarithmic.
        x_scale: scale of x, such as ``math.log2``.
        margin: distance of ``y_range`` to the lower and upper edge, in units of the scale.
    """

    def __init__(
        self,
        draw: Any,
        box: Box,
        x_range: Point,
        y_range: Point,
        log_y: bool,
        x_scale: Callable[[float], float] = float,
        margin: float = 0.0,
    ) -> None:
        self.draw, self.box, self.log_y, self.x_scale = draw, box, log_y, x_scale
        self.first, self.last = map(x_scale, x_range)
        self.low, self.high = self._scaled(y_range[0]) - margin, self._scaled(y_range[1]) + margin
        if self.high - self.low < 1e-9:
            self.low, self.high = self.low - 0.5, self.high + 0.5

    def _scaled(self, y: float) -> float:
        return math.log10(y) if self.log_y else y

    def place(self, x: float, y: float) -> Point:
        """The pixel of a point."""
        left, top, right, bottom = self.box
        if not math.isfinite(y):
            height = 1.0
        elif self.log_y and y <= 0:
            height = 0.0
        else:
            height = (self._scaled(y) - self.low) / (self.high - self.low)
        width = (self.x_scale(x) - self.first) / (self.last - self.first)
        return left + (right - left) * width, bottom - (bottom - top) * height

    def draw_frame(self, x_ticks: Sequence[float], x_format: str, y_format: str) -> None:
        """Draw both axes, five horizontal grid lines and the labels of the ticks."""
        left, top, right, bottom = self.box
        for i in range(5):
            mark = self.low + (self.high - self.low) * i / 4
            value = 10**mark if self.log_y else mark
            y = self.place(x_ticks[0], value)[1]
            self.draw.line([(left, y), (right, y)], fill=_GREY)
            draw_text(self.draw, (left - 8, y), format(value, y_format), 13, "rm")
        for x in x_ticks:
            draw_text(self.draw, (self.place(x, 1.0)[0], bottom + 8), format(x, x_format), 13, "ma")
        self.draw.line([(left, top), (left, bottom), (right, bottom)], fill=_TEXT, width=2)

    def draw_curve(self, points: Sequence[Point], colour: str, width: int) -> None:
        """Draw a line through points (x, y); a single point is not visible."""
        if len(points) > 1:
            self.draw.line([self.place(x, y) for x, y in points], fill=colour, width=width, joint="curve")


def draw_text(draw: Any, at: Point, text: str, size: int, anchor: str) -> None:
    """Draw text in Pillow's own font; ``anchor`` is Pillow's, such as "lm" for the middle of the left edge."""
    from PIL import ImageFont

    draw.text(at, text, fill=_TEXT, font=ImageFont.load_default(size), anchor=anchor)


def draw_legend(draw: Any, at: Point, name: str, colour: str) -> None:
    """Draw an entry of a legend: a short line and its name."""
    x, y = at
    draw.line([(x, y), (x + 22, y)], fill=colour, width=3)
    draw_text(draw, (x + 28, y), name, 13, "lm")
