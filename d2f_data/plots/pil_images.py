"""Conversion between ComfyUI's IMAGE tensors and PIL images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_pil(images: Tensor) -> list[Any]:
    """An IMAGE (B, H, W, 3) in [0, 1] as PIL images."""
    from PIL import Image

    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return [Image.fromarray(image.numpy()) for image in pixels]


def from_pil(image: Any) -> Tensor:
    """A PIL image as an IMAGE (1, H, W, 3) in [0, 1]."""
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.view(1, image.height, image.width, 3).float() / 255


def side_by_side(images: Sequence[Any], height: int = 256) -> Any:
    """PIL images of equal size in a row, all enlarged by the integer that brings them nearest to ``height`` pixels."""
    from PIL import Image

    scale = max(1, round(height / images[0].height))
    width, height = images[0].width * scale, images[0].height * scale
    row = Image.new("RGB", (width * len(images), height))
    for i, image in enumerate(images):
        row.paste(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), (i * width, 0))
    return row
