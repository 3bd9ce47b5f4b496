"""Augmentation: random parameters per variant of an image, and the crop, flip and colour jitter that they describe.

Every parameter comes from a private generator seeded with (seed, image, variant), so a set does not change when images
are added or renamed, and the global generators are left alone. Colours are changed with kornia's functional API;
its random modules are not used because they draw from the global generator.

    zoom       = 1 / (1 - crop * u)                  u, and the position of the crop, uniform in [0, 1]
    brightness, contrast, saturation factors         uniform in [1 - colour, 1 + colour]
    hue shift                                        uniform in +-colour / 10 of a turn
    flip       = (coin of the image + variant) is odd, so two variants are an image and its mirror image
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import install_command
from .buckets import Bucket, Placement

HUE_TURNS = 0.1


@dataclass(frozen=True)
class Augmentation:
    """Which augmentations are allowed, and how strong they are.

    Attributes:
        flip: whether images may be mirrored horizontally.
        crop: largest fraction of a side that a random crop removes, in [0, 0.9]; 0 always crops at the centre.
        colour: strength of the colour jitter, in [0, 1].
    """

    flip: bool = False
    crop: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        for name, value, high in (("crop", self.crop, 0.9), ("colour", self.colour, 1.0)):
            if not 0 <= value <= high:
                raise ValueError(f"{name} must be in [0, {high:g}], got {value:g}; 0 turns it off")

    def distinct(self, variants: int) -> int:
        """The number of variants of an image that can differ, out of ``variants``."""
        if self.crop or self.colour:
            return variants
        return min(variants, 2 if self.flip else 1)


@dataclass(frozen=True)
class AugmentationParams:
    """The augmentation parameters of one variant of an image; the defaults leave the image unchanged."""

    flip: bool = False
    zoom: float = 1.0
    x: float = 0.5
    y: float = 0.5
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


def sample_params(augmentation: Augmentation, seed: int, image: str, variant: int = 0) -> AugmentationParams:
    """Sample the augmentation parameters of one variant of an image.

    Args:
        augmentation: the ranges to sample from.
        seed: seed of the whole set.
        image: identity of the image, such as the hash of its file.
        variant: index of the variant, from 0.
    """
    coin = _uniform(seed, image, "coin", 1)[0] < 0.5
    zoom, x, y, *jitter = _uniform(seed, image, str(variant), 7)
    crop, colour = augmentation.crop, augmentation.colour
    # + 0.0 turns a negative zero, which would change the cache key, into a positive one.
    brightness, contrast, saturation, hue = (colour * (2 * u - 1) + 0.0 for u in jitter)
    return AugmentationParams(
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
    """``count`` uniform numbers in [0, 1) from a generator seeded with (seed, image, purpose)."""
    digest = hashlib.sha256(f"{seed}/{image}/{purpose}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def augment_image(pixels: Tensor, params: AugmentationParams, placement: Placement, bucket: Bucket) -> Tensor:
    """Crop, flip and colour jitter of an image that has already been resized to its placement.

    Args:
        pixels: (3, placement.height, placement.width) in [0, 1].
        params: parameters of this variant.
        placement: position of the crop.
        bucket: size of the crop.

    Returns:
        (3, bucket.height, bucket.width) in [0, 1].
    """
    image = _colour(_frame(pixels[None], params, placement, bucket), params)
    return image[0].clamp(0, 1).contiguous()


def augment_mask(mask: Tensor, params: AugmentationParams, placement: Placement, bucket: Bucket) -> Tensor:
    """The same crop and flip for a mask, (1, placement.height, placement.width) -> (1, bucket.height, bucket.width).

    Padding is 0.
    """
    return _frame(mask[None], params, placement, bucket, "constant")[0].contiguous()


def encoded_crop_left(params: AugmentationParams, placement: Placement, bucket: Bucket) -> int:
    """Left edge of the crop in pixels, measured in the flipped image if the variant is flipped; 0 if it is padded."""
    return max(0, placement.width - bucket.width - placement.left if params.flip else placement.left)


def _frame(
    image: Tensor, params: AugmentationParams, placement: Placement, bucket: Bucket, padding: str = "replicate"
) -> Tensor:
    """Padding, crop and flip, (1, C, H, W) -> (1, C, bucket.height, bucket.width)."""
    across = max(0, -placement.left), max(0, placement.left + bucket.width - placement.width)
    down = max(0, -placement.top), max(0, placement.top + bucket.height - placement.height)
    if any((*across, *down)):
        image = torch.nn.functional.pad(image, (*across, *down), mode=padding)
    left, top = placement.left + across[0], placement.top + down[0]
    image = image[..., top : top + bucket.height, left : left + bucket.width]
    return image.flip(-1) if params.flip else image


def _colour(image: Tensor, params: AugmentationParams) -> Tensor:
    """Colour jitter of (1, 3, H, W); adjustments with neutral parameters are skipped."""
    enhance = _kornia().enhance
    if params.brightness != 1:
        image = enhance.adjust_brightness_accumulative(image, params.brightness)
    if params.contrast != 1:
        image = enhance.adjust_contrast_with_mean_subtraction(image, params.contrast)
    if params.saturation != 1:
        image = enhance.adjust_saturation_with_gray_subtraction(image, params.saturation)
    if params.hue != 0:
        image = enhance.adjust_hue(image, 2 * math.pi * params.hue)
    return image


def _kornia() -> Any:
    """kornia, one of ComfyUI's requirements."""
    try:
        import kornia
    except ImportError as error:
        raise ValueError(
            f"changing the colours of images needs kornia, which cannot be imported ({error}); run "
            f"{install_command('kornia')}"
        ) from None
    return kornia
