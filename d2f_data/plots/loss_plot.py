"""Pictures of a training run: the plot of its losses, and samples side by side.

Drawn with Pillow, which every host has. The running mean is bias-corrected,
``m_k = b m_(k-1) + (1 - b) loss_k``, divided by ``1 - b^k``, with b = 1 - 2 / (n / 20 + 1) for n steps.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SIZE = (800, 480)
_LEFT, _TOP, _RIGHT, _BOTTOM = 78, 44, 780, 436
_LIGHT, _DARK, _RED, _GREY, _TEXT = "#c9d8ee", "#1f5fb0", "#d1495b", "#e4e4e4", "#333333"


def plot_losses(losses: Sequence[float], validation: Sequence[tuple[int, float]] = (), title: str = "") -> Tensor:
    """An IMAGE (1, 480, 800, 3) in [0, 1] of the loss of each step, and of (step, loss) pairs of the validation."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    values = [value for value in [*losses, *(loss for _, loss in validation)] if math.isfinite(value)]
    axes = _Axes(max(len(losses), 2), min(values, default=0.0), max(values, default=1.0))
    _draw_axes(draw, axes, title)
    _draw_line(draw, [axes.place(i + 1, loss) for i, loss in enumerate(losses)], _LIGHT, 1)
    _draw_line(draw, [axes.place(i + 1, loss) for i, loss in enumerate(running_mean(losses))], _DARK, 3)
    points = [axes.place(step, loss) for step, loss in validation]
    _draw_line(draw, points, _RED, 2)
    for x, y in points:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_RED)
    _draw_legend(draw, bool(points))
    return as_image(image)


def running_mean(losses: Sequence[float]) -> list[float]:
    """The bias-corrected running mean over about a twentieth of the run."""
    decay = 1 - 2 / (len(losses) / 20 + 1) if len(losses) > 20 else 0.0
    mean, weight, means = 0.0, 0.0, []
    for loss in losses:
        mean, weight = decay * mean + (1 - decay) * loss, decay * weight + (1 - decay)
        means.append(mean / weight)
    return means


class _Axes:
    """Steps to the right, loss upwards on a logarithmic scale if the losses are positive."""

    def __init__(self, steps: int, low: float, high: float) -> None:
        self.steps, self.log = steps, low > 0
        self.low, self.high = self._scaled(low), self._scaled(high)
        if self.high - self.low < 1e-9:
            self.low, self.high = self.low - 0.5, self.high + 0.5

    def _scaled(self, loss: float) -> float:
        return math.log10(loss) if self.log else loss

    def place(self, step: float, loss: float) -> tuple[float, float]:
        """Pixel of a step and its loss; what is not finite sits on the upper edge."""
        part = (self._scaled(loss) - self.low) / (self.high - self.low) if math.isfinite(loss) else 1.0
        return _LEFT + (_RIGHT - _LEFT) * (step - 1) / (self.steps - 1), _BOTTOM - (_BOTTOM - _TOP) * part

    def ticks(self) -> list[float]:
        """Losses at five equal distances."""
        marks = [self.low + (self.high - self.low) * i / 4 for i in range(5)]
        return [10**mark if self.log else mark for mark in marks]


def label_font(size: int) -> Any:
    """Pillow's own font."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _draw_axes(draw: Any, axes: _Axes, title: str) -> None:
    for loss in axes.ticks():
        y = axes.place(1, loss)[1]
        draw.line([(_LEFT, y), (_RIGHT, y)], fill=_GREY)
        draw.text((_LEFT - 8, y), f"{loss:.3g}", fill=_TEXT, font=label_font(13), anchor="rm")
    for i in range(5):
        step = 1 + (axes.steps - 1) * i / 4
        draw.text((axes.place(step, 1)[0], _BOTTOM + 8), f"{step:.0f}", fill=_TEXT, font=label_font(13), anchor="ma")
    draw.line([(_LEFT, _TOP), (_LEFT, _BOTTOM), (_RIGHT, _BOTTOM)], fill=_TEXT, width=2)
    draw.text(((_LEFT + _RIGHT) / 2, _BOTTOM + 26), "step", fill=_TEXT, font=label_font(14), anchor="ma")
    draw.text((_LEFT, 14), title or "loss", fill=_TEXT, font=label_font(16), anchor="lm")


def _draw_line(draw: Any, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
    if len(points) > 1:
        draw.line(list(points), fill=colour, width=width, joint="curve")


def _draw_legend(draw: Any, validated: bool) -> None:
    rows = [("loss", _LIGHT), ("running mean", _DARK), *([("validation", _RED)] if validated else [])]
    for i, (name, colour) in enumerate(rows):
        x = _RIGHT - 130 * (len(rows) - i)
        draw.line([(x, 14), (x + 22, 14)], fill=colour, width=3)
        draw.text((x + 28, 14), name, fill=_TEXT, font=label_font(13), anchor="lm")


def as_pictures(images: Tensor) -> list[Any]:
    """PIL pictures of an IMAGE (B, H, W, 3) in [0, 1]."""
    from PIL import Image

    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return [Image.fromarray(image.numpy()) for image in pixels]


def as_image(picture: Any) -> Tensor:
    """An IMAGE (1, H, W, 3) in [0, 1] of a PIL picture."""
    pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.view(1, picture.height, picture.width, 3).float() / 255


def side_by_side(pictures: Sequence[Any], height: int = 256) -> Any:
    """One PIL picture of several, at least ``height`` pixels high, in a row."""
    from PIL import Image

    scale = max(1, round(height / pictures[0].height))
    width, height = pictures[0].width * scale, pictures[0].height * scale
    row = Image.new("RGB", (width * len(pictures), height))
    for i, picture in enumerate(pictures):
        row.paste(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), (i * width, 0))
    return row
