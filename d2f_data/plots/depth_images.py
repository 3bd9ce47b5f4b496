"""Images into and out of a depth model: resizing to the working size of the model, and colour maps for depth.

A model works best at about the area that it was trained with. An image of W x H pixels is resized with kornia to

    (w, h) = scale (W, H), rounded to multiples of the VAE's downscaling factor        scale = resolution / sqrt(W H)

with antialiasing when it gets smaller, and its depth is resized back to W x H.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

LEVELS = 256  # colours of a colour map
MIN_SIDE = 32  # pixels; some VAEs cannot encode less

# ColorBrewer's Spectral with eleven classes (Cynthia Brewer), from red to violet.
_SPECTRAL = (
    *((158, 1, 66), (213, 62, 79), (244, 109, 67), (253, 174, 97), (254, 224, 139), (255, 255, 191)),
    *((230, 245, 152), (171, 221, 164), (102, 194, 165), (50, 136, 189), (94, 79, 162)),
)


def working_size(height: int, width: int, resolution: int, multiple: int = 8) -> tuple[int, int]:
    """(height, width) at which the model processes an image, in pixels.

    Args:
        height, width: size of the image in pixels.
        resolution: side of the square with the desired area in pixels; 0 keeps the area of the image.
        multiple: both sides become multiples of this many pixels.
    """
    scale = resolution / math.sqrt(width * height) if resolution else 1.0
    smallest = max(MIN_SIDE, multiple)
    rows, columns = (max(smallest, round(side * scale / multiple) * multiple) for side in (height, width))
    return rows, columns


def as_rgb(image: Tensor) -> Tensor:
    """An IMAGE with three channels, (B, H, W, C) -> (B, H, W, 3): grey is repeated, alpha dropped."""
    return image[..., :3] if image.shape[-1] >= 3 else image[..., :1].expand(*image.shape[:-1], 3)


def resize_image(image: Tensor, height: int, width: int) -> Tensor:
    """Resize an IMAGE (B, H, W, C) in [0, 1]: bicubic if it gets larger, bilinear with antialiasing if smaller."""
    interpolation = "bilinear" if height * width < image.shape[1] * image.shape[2] else "bicubic"
    return _resize(image.movedim(-1, 1), height, width, interpolation).movedim(1, -1).clamp(0, 1)


def resize_depth(depth: Tensor, height: int, width: int) -> Tensor:
    """Resize depth (B, H, W) bilinearly, so that no value lies outside of the range of its neighbours."""
    return _resize(depth[:, None], height, width, "bilinear")[:, 0]


def colorize(depth: Tensor, colors: str) -> Tensor:
    """Relative depth in colours; near pixels are warm or light in most colour maps.

    Args:
        depth: (B, H, W) in [0, 1], 0 is near.
        colors: a name of ``COLORS``.

    Returns:
        IMAGE (B, H, W, 3) in [0, 1], float32.

    Raises:
        ValueError: unknown colours.
    """
    if colors not in COLORS:
        raise ValueError(f"unknown colors {colors!r}; allowed are {', '.join(map(repr, COLORS))}")
    return COLORS[colors](depth.float().clamp(0, 1))


def _colormap(name: str | None = None) -> Callable[[Tensor], Tensor]:
    """A function that applies a colour map of kornia, or Spectral, reversed so that near pixels get its last colour."""

    def apply(depth: Tensor) -> Tensor:
        from kornia.color import ColorMap, apply_colormap

        colormap = ColorMap(name or _spectral(), num_colors=LEVELS, device=depth.device, dtype=torch.float32)
        return apply_colormap((1 - depth)[:, None], colormap).movedim(1, -1)

    return apply


def _spectral() -> list[list[float]]:
    """``LEVELS`` colours from violet to red; interpolated here, as kornia would leave both ends constant."""
    classes = torch.tensor(_SPECTRAL[::-1], dtype=torch.float32).T / 255
    return torch.nn.functional.interpolate(classes[None], LEVELS, mode="linear", align_corners=True)[0].T.tolist()


def _grey(depth: Tensor) -> Tensor:
    return depth[..., None].repeat(1, 1, 1, 3)


COLORS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "spectral": _colormap(),
        "turbo": _colormap("turbo"),
        "viridis": _colormap("viridis"),
        "gray, near is white": lambda depth: _grey(1 - depth),
        "gray, far is white": _grey,
    }
)
"""Name -> depth (B, H, W) in [0, 1] -> IMAGE."""


def _resize(pixels: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """Resize (B, C, H, W) with antialiasing; unchanged if it has that size already."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    from kornia.geometry import resize

    return resize(pixels, (height, width), interpolation, antialias=True)
