"""Images in and out of a depth model: the size that it works at, and depth in colours. kornia does both.

A model works at about the area it was trained with. An image of W x H pixels is brought to

    (w, h) = scale (W, H), rounded to multiples of the pixels of a latent        scale = resolution / sqrt(W H)

with a blur before it gets smaller, and its depth is brought back to W x H.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

LEVELS = 256  # of a colour map
LEAST_SIDE = 32  # pixels; below that some VAEs have nothing left to work on

# ColorBrewer's Spectral with eleven classes (Cynthia Brewer), from red to violet.
_SPECTRAL = (
    *((158, 1, 66), (213, 62, 79), (244, 109, 67), (253, 174, 97), (254, 224, 139), (255, 255, 191)),
    *((230, 245, 152), (171, 221, 164), (102, 194, 165), (50, 136, 189), (94, 79, 162)),
)


def working_size(height: int, width: int, resolution: int, multiple: int = 8) -> tuple[int, int]:
    """(height, width) at which an image is worked on.

    Args:
        height, width: of the image, in pixels.
        resolution: side of the square of the area wanted; 0 for that of the image.
        multiple: of which both sides must be.
    """
    scale = resolution / math.sqrt(width * height) if resolution else 1.0
    least = max(LEAST_SIDE, multiple)
    rows, columns = (max(least, round(side * scale / multiple) * multiple) for side in (height, width))
    return rows, columns


def as_rgb(image: Tensor) -> Tensor:
    """An IMAGE of three channels, (B, H, W, C) -> (B, H, W, 3): grey repeated, alpha left out."""
    return image[..., :3] if image.shape[-1] >= 3 else image[..., :1].expand(*image.shape[:-1], 3)


def resize_image(image: Tensor, height: int, width: int) -> Tensor:
    """An IMAGE (B, H, W, C) in [0, 1] at another size, bicubic upwards."""
    smooth = "bilinear" if height * width < image.shape[1] * image.shape[2] else "bicubic"
    return _resize(image.movedim(-1, 1), height, width, smooth).movedim(1, -1).clamp(0, 1)


def resize_depth(depth: Tensor, height: int, width: int) -> Tensor:
    """Depth (B, H, W) at another size; linear, so that no value is beyond those around it."""
    return _resize(depth[:, None], height, width, "bilinear")[:, 0]


def colorize(depth: Tensor, colors: str) -> Tensor:
    """Relative depth in colours, near ones warm or light.

    Args:
        depth: (B, H, W) in [0, 1], 0 near.
        colors: one of ``COLORS``.

    Returns:
        IMAGE (B, H, W, 3) in [0, 1], float32.

    Raises:
        ValueError: unknown colours.
    """
    if colors not in COLORS:
        raise ValueError(f"unknown colors {colors!r}; allowed are {', '.join(map(repr, COLORS))}")
    return COLORS[colors](depth.float().clamp(0, 1))


def _mapped(name: str | None = None) -> Callable[[Tensor], Tensor]:
    """Colours of kornia's colour map, from its end for what is near; Spectral without a name."""

    def colored(depth: Tensor) -> Tensor:
        from kornia.color import ColorMap, apply_colormap

        colormap = ColorMap(name or _spectral(), num_colors=LEVELS, device=depth.device, dtype=torch.float32)
        return apply_colormap((1 - depth)[:, None], colormap).movedim(1, -1)

    return colored


def _spectral() -> list[list[float]]:
    """``LEVELS`` colours, violet to red; kornia's own steps would leave the ends flat."""
    classes = torch.tensor(_SPECTRAL[::-1], dtype=torch.float32).T / 255
    return torch.nn.functional.interpolate(classes[None], LEVELS, mode="linear", align_corners=True)[0].T.tolist()


def _grey(depth: Tensor) -> Tensor:
    return depth[..., None].repeat(1, 1, 1, 3)


COLORS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "spectral": _mapped(),
        "turbo": _mapped("turbo"),
        "viridis": _mapped("viridis"),
        "gray, near is white": lambda depth: _grey(1 - depth),
        "gray, far is white": _grey,
    }
)
"""Name -> depth (B, H, W) in [0, 1] -> IMAGE."""


def _resize(pixels: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """(B, C, H, W) at another size; as it is at its own."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    from kornia.geometry import resize

    return resize(pixels, (height, width), interpolation, antialias=True)
