"""Plot of the losses of a training run.

The running mean is bias-corrected: ``m_k = b m_(k-1) + (1 - b) loss_k``, divided by ``1 - b^k``, with
b = 1 - 2 / (n / 20 + 1) for n steps.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from .axes import Axes, draw_legend, draw_text
from .pil_images import from_pil

SIZE = (800, 480)
_BOX = (78, 44, 780, 436)
_LIGHT, _DARK, _RED = "#c9d8ee", "#1f5fb0", "#d1495b"


def plot_losses(losses: Sequence[float], validation: Sequence[tuple[int, float]] = (), title: str = "") -> Tensor:
    """Plot the training loss, its running mean and the validation loss over the steps.

    Args:
        losses: loss of each step, from step 1; on a logarithmic scale if all of them are positive.
        validation: (step, validation loss).
        title: title of the plot.

    Returns:
        IMAGE (1, 480, 800, 3) in [0, 1].
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    finite = [value for value in [*losses, *(loss for _, loss in validation)] if math.isfinite(value)]
    low, high, steps = min(finite, default=0.0), max(finite, default=1.0), max(len(losses), 2)
    axes = Axes(draw, _BOX, (1, steps), (low, high), log_y=low > 0)
    axes.draw_frame([1 + (steps - 1) * i / 4 for i in range(5)], ".0f", ".3g")
    draw_text(draw, ((_BOX[0] + _BOX[2]) / 2, _BOX[3] + 26), "step", 14, "ma")
    draw_text(draw, (_BOX[0], 14), title or "loss", 16, "lm")
    axes.draw_curve(list(enumerate(losses, 1)), _LIGHT, 1)
    axes.draw_curve(list(enumerate(running_mean(losses), 1)), _DARK, 3)
    axes.draw_curve(validation, _RED, 2)
    for step, loss in validation:
        x, y = axes.place(step, loss)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_RED)
    entries = [("loss", _LIGHT), ("running mean", _DARK), *([("validation", _RED)] if validation else [])]
    for i, (name, colour) in enumerate(entries):
        draw_legend(draw, (_BOX[2] - 130 * (len(entries) - i), 14), name, colour)
    return from_pil(image)


def running_mean(losses: Sequence[float]) -> list[float]:
    """The bias-corrected running mean over about a twentieth of the run."""
    decay = 1 - 2 / (len(losses) / 20 + 1) if len(losses) > 20 else 0.0
    mean, weight, means = 0.0, 0.0, []
    for loss in losses:
        mean, weight = decay * mean + (1 - decay) * loss, decay * weight + (1 - decay)
        means.append(mean / weight)
    return means
