"""Other sizes than the demo model's own, as fractions of it, renders at them, and objects that appear twice.

The shorter side of a picture shows what a picture of the native size shows, and the longer one more of the room on both
sides. So the square in the middle is a scene as the reader knows it, and there is one solid in the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy import ndimage
from torch import Tensor

from diff2flow_kit.demo import networks, render
from diff2flow_kit.demo.scenes import Scene

FRACTIONS = {"larger": (4 / 3, 4 / 3), "wide": (2 / 3, 5 / 3)}
"""Name -> height and width, of the native side: 128 x 128 and 64 x 160 at 96."""
MULTIPLE = 32  # pixels, so that every level of the network halves evenly
LEAST_AREA = 0.01  # of a solid, of the square of the shorter side
HUES = {
    "red": (-0.04, 0.03),
    "orange": (0.04, 0.10),
    "yellow": (0.11, 0.19),
    "purple": (0.70, 0.82),
}
"""Colours that no floor and no wall has: range of hues, red around 0."""
LEAST_SATURATION, LEAST_VALUE = 0.45, 0.2


def size_of(name: str, native: int = networks.IMAGE_SIZE) -> tuple[int, int]:
    """Height and width in pixels."""
    height, width = (MULTIPLE * round(native * fraction / MULTIPLE) for fraction in FRACTIONS[name])
    return height, width


def renders(scenes: Sequence[Scene], height: int, width: int) -> Tensor:
    """Pictures (N, height, width, 3) of scenes, the band in the middle of a square of the longer side."""
    long, short = max(height, width), min(height, width)
    images = render.render_batch(scenes, long, half_field=render.HALF_FIELD * long / short)[0]
    top, left = (long - height) // 2, (long - width) // 2
    return images[:, top : top + height, left : left + width]


def middle(images: Tensor) -> Tensor:
    """The square in the middle, (N, side, side, 3)."""
    height, width = images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, top : top + side, left : left + side]


def places_of(image: Tensor, color: str) -> int:
    """In how many separate places a picture (H, W, 3) shows a colour of HUES."""
    hue, saturation, value = _hsv(image)
    low, high = HUES[color]
    hue = torch.where(hue > (low + high) / 2 + 0.5, hue - 1, hue)
    shown = (hue >= low) & (hue <= high) & (saturation >= LEAST_SATURATION) & (value >= LEAST_VALUE)
    labels, count = ndimage.label(shown.numpy())
    areas = ndimage.sum_labels(shown.numpy(), labels, range(1, count + 1)) if count else []
    return sum(float(area) >= LEAST_AREA * min(shown.shape) ** 2 for area in areas)


def duplicated(images: Tensor, colors: Sequence[str]) -> float:
    """Share of pictures with their solid's colour in more than one place, of those whose colour is in HUES."""
    counts = [places_of(image, color) for image, color in zip(images, colors, strict=True) if color in HUES]
    return sum(count > 1 for count in counts) / len(counts) if counts else float("nan")


def _hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in [0, 1), saturation and value, each (H, W)."""
    image = image.clamp(0, 1)
    (value, top), low = image.max(-1), image.amin(-1)
    spread = (value - low).clamp(min=1e-6)
    red, green, blue = image.unbind(-1)
    sixths = torch.stack([(green - blue) / spread % 6, (blue - red) / spread + 2, (red - green) / spread + 4], -1)
    return sixths.gather(-1, top[..., None])[..., 0] / 6, (value - low) / value.clamp(min=1e-6), value
