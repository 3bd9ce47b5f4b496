"""Plot of a probe of a network: relative error of each reading over the noise levels, and the most that names one."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from .axes import Axes, Point, draw_legend, draw_text
from .pil_images import from_pil

SIZE = (800, 440)
_BOX = (78, 84, 780, 392)
_COLOURS = ("#1f5fb0", "#d1495b", "#2a9d5c", "#8a63c9", "#e08e2b", "#3aa6b9", "#777777")
_LIMIT = "#b8b8b8"
_MARGIN = 0.05  # between the curves and the edges of the box, in powers of ten


def plot_probe(errors: Mapping[str, Sequence[float]], levels: Sequence[float], limit: float, title: str) -> Tensor:
    """Plot the curves of up to seven readings.

    Args:
        errors: name of the reading -> relative error at each level.
        levels: flow sigmas s, ascending.
        limit: largest error with which a reading is named.
        title: title of the plot.

    Returns:
        IMAGE (1, 440, 800, 3) in [0, 1]; the errors have a logarithmic scale.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    values = [value for curve in errors.values() for value in curve if math.isfinite(value) and value > 0]
    low, high = min([*values, limit]), max([*values, limit])
    axes = Axes(draw, _BOX, (levels[0], levels[-1]), (low, high), log_y=True, margin=_MARGIN)
    axes.draw_frame(levels, "g", ".2g")
    draw_text(draw, (_BOX[0], 18), title, 16, "lm")
    draw_text(draw, ((_BOX[0] + _BOX[2]) / 2, _BOX[3] + 26), "noise level s", 14, "ma")
    axes.draw_curve([(levels[0], limit), (levels[-1], limit)], _LIMIT, 2)
    for i, ((name, curve), colour) in enumerate(zip(errors.items(), _COLOURS)):
        points: list[Point] = list(zip(levels, curve))
        axes.draw_curve(points, colour, 3)
        for x, y in (axes.place(*point) for point in points):
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        draw_legend(draw, (_BOX[0] + 116 * i, 48), name, colour)
    return from_pil(image)
