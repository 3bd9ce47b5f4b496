"""Augmentation: what is drawn for a variant of an image, and what that does to its pixels.

Every number comes from a private generator seeded by (seed, image, variant), so a set does not change when
images are added or renamed, and the global generators stay as they are. kornia's functional API does
the work on the pixels; its random modules are not used, since they draw from the global generator.

    zoom       = 1 / (1 - crop * u)                  u, and the position of the crop, uniform in [0, 1]
    brightness, contrast, saturation factors         uniform in [1 - colour, 1 + colour]
    hue shift                                        uniform in +-colour / 10 of a turn
    flipped    = (coin of the image + variant) is odd, so two variants are an image and its mirror
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import install_command
from .buckets import Bucket, Placement

HUE_TURNS = 0.1


@dataclass(frozen=True)
class Augmentation:
    """What may be done to an image.

    Attributes:
        flip: mirror left and right.
        crop: largest part of a side that a crop leaves out, in [0, 0.9]; 0 crops at the centre only.
        colour: strength of the colour jitter, in [0, 1].
    """

    flip: bool = False
    crop: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        for name, value, high in (("crop", self.crop, 0.9), ("colour", self.colour, 1.0)):
            if not 0 <= value <= high:
                raise ValueError(f"{name} must be in [0, {high:g}], got {value:g}; 0 switches it off")

    def distinct(self, variants: int) -> int:
        """How many of so many variants of an image can differ."""
        if self.crop or self.colour:
            return variants
        return min(variants, 2 if self.flip else 1)


@dataclass(frozen=True)
class Draw:
    """The numbers of one variant of an image; the defaults change nothing."""

    flip: bool = False
    zoom: float = 1.0
    x: float = 0.5
    y: float = 0.5
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


def draw(augmentation: Augmentation, seed: int, image: str, variant: int = 0) -> Draw:
    """The numbers for a variant of an image.

    Args:
        seed: of the whole set.
        image: what identifies the image, such as the hash of its file.
        variant: counts from 0.
    """
    coin = _uniform(seed, image, "coin", 1)[0] < 0.5
    zoom, x, y, *jitter = _uniform(seed, image, str(variant), 7)
    crop, colour = augmentation.crop, augmentation.colour
    # + 0.0: a negative zero is the same draw, but would be another key of the cache.
    brightness, contrast, saturation, hue = (colour * (2 * u - 1) + 0.0 for u in jitter)
    return Draw(
        flip=augmentation.flip and (coin + variant) % 2 == 1,
        zoom=1 / (1 - crop * zoom),
        x=x if crop else 0.5,
        y=y if crop else 0.5,
        brightness=1 + brightness,
        contrast=1 + contrast,
        saturation=1 + saturation,
        hue=HUE_TURNS * hue,
    )


def _uniform(seed: int, image: str, purpose: str, count: int) -> list[float]:
    """Numbers in [0, 1) of a generator of their own."""
    digest = hashlib.sha256(f"{seed}/{image}/{purpose}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def apply(pixels: Tensor, drawn: Draw, placement: Placement, bucket: Bucket) -> Tensor:
    """Crop, flip and colour of an image that was resized to its placement.

    Args:
        pixels: (3, placement.height, placement.width) in [0, 1].

    Returns:
        (3, bucket.height, bucket.width) in [0, 1].
    """
    image = _colour(_frame(pixels[None], drawn, placement, bucket), drawn)
    return image[0].clamp(0, 1).contiguous()


def apply_to_mask(mask: Tensor, drawn: Draw, placement: Placement, bucket: Bucket) -> Tensor:
    """The same crop and flip for a mask, (1, placement.height, placement.width) -> (1, height, width)."""
    return _frame(mask[None], drawn, placement, bucket)[0].contiguous()


def mirrored_left(drawn: Draw, placement: Placement, bucket: Bucket) -> int:
    """Left edge of the crop in the image as it was encoded: counted from the other side when it was flipped."""
    return placement.width - bucket.width - placement.left if drawn.flip else placement.left


def _frame(image: Tensor, drawn: Draw, placement: Placement, bucket: Bucket) -> Tensor:
    """Crop and flip, (1, C, H, W) -> (1, C, bucket.height, bucket.width)."""
    transform = _kornia().geometry.transform
    left, top = placement.left, placement.top
    right, bottom = left + bucket.width - 1, top + bucket.height - 1
    corners = torch.tensor([[[left, top], [right, top], [right, bottom], [left, bottom]]])
    image = transform.crop_by_indices(image, corners)
    return transform.hflip(image) if drawn.flip else image


def _colour(image: Tensor, drawn: Draw) -> Tensor:
    """Colour jitter of (1, 3, H, W); steps that change nothing are left out."""
    enhance = _kornia().enhance
    if drawn.brightness != 1:
        image = enhance.adjust_brightness_accumulative(image, drawn.brightness)
    if drawn.contrast != 1:
        image = enhance.adjust_contrast_with_mean_subtraction(image, drawn.contrast)
    if drawn.saturation != 1:
        image = enhance.adjust_saturation_with_gray_subtraction(image, drawn.saturation)
    if drawn.hue != 0:
        image = enhance.adjust_hue(image, 2 * math.pi * drawn.hue)
    return image


def _kornia() -> Any:
    """kornia, which ComfyUI's requirements bring."""
    try:
        import kornia
    except ImportError as error:
        raise ValueError(
            f"kornia, which crops and augments images, is missing ({error}); run {install_command('kornia')}"
        ) from None
    return kornia
