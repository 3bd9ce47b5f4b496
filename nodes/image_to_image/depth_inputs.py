"""Inputs that the depth nodes share: depth as MASK or IMAGE, and the mask of valid pixels."""

from comfy_api.latest import io
from torch import Tensor

COLOR_CHANNELS = 3  # a fourth channel is alpha


def depth_input(name: str, tooltip: str) -> io.MultiType.Input:
    """An input that takes depth as MASK or as IMAGE."""
    return io.MultiType.Input(name, types=[io.Mask, io.Image], tooltip=tooltip)


def valid_input() -> io.Mask.Input:
    """An optional MASK of the valid pixels."""
    return io.Mask.Input(
        "valid",
        optional=True,
        tooltip="White where the depth is valid; one mask per image, or one for all. Pixels that are not finite or not "
        "above 0 are never valid.",
    )


def as_depth(value: Tensor) -> Tensor:
    """Depth (B, H, W) from a MASK (B, H, W) or (H, W), or from an IMAGE (B, H, W, C), whose colours are averaged.

    It is on the CPU, as what is computed from it is computed in float64, which not all devices have.
    """
    value = value.cpu()
    if value.ndim == 4:
        return value[..., :COLOR_CHANNELS].mean(-1)
    return value[None] if value.ndim == 2 else value
