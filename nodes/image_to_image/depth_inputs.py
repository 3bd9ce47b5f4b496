"""Inputs that the depth nodes share: depth as MASK or IMAGE, and the pixels where it counts."""

from comfy_api.latest import io
from torch import Tensor

CHANNELS = 3  # of colour; a fourth is alpha


def depth_input(name: str, tooltip: str) -> io.MultiType.Input:
    """A socket for depth as MASK or as IMAGE."""
    return io.MultiType.Input(name, types=[io.Mask, io.Image], tooltip=tooltip)


def valid_input() -> io.Mask.Input:
    """An optional MASK of the pixels that count."""
    return io.Mask.Input(
        "valid",
        optional=True,
        tooltip="White where the depth counts; one mask an image, or one for all. Pixels that are not finite or not "
        "above 0 never count.",
    )


def as_depth(value: Tensor) -> Tensor:
    """(B, H, W) of a MASK (B, H, W) or (H, W), or of an IMAGE (B, H, W, C), whose colours are averaged."""
    if value.ndim == 4:
        return value[..., :CHANNELS].mean(-1)
    return value[None] if value.ndim == 2 else value
