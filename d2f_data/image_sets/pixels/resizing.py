"""Resizes Pillow images to their placement."""

from typing import Any

import torch
from torch import Tensor

from ..buckets import Placement


def resize(image: Any, placement: Placement, resampling: str) -> Any:
    """A Pillow image resized to its placement; ``resampling`` is one of Pillow's names."""
    from PIL import Image

    return image.resize((placement.width, placement.height), getattr(Image.Resampling, resampling))


def resize_to_tensor(image: Any, placement: Placement, resampling: str) -> Tensor:
    """The same as a tensor, (C, H, W) in [0, 1]."""
    import numpy as np

    values = torch.from_numpy(np.array(resize(image, placement, resampling))).to(torch.float32) / 255
    return values.movedim(-1, 0) if values.ndim == 3 else values[None]
