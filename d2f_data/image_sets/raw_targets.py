"""Reading measured values, one a pixel, as the file stores them: distances, heights, heat, whatever has a number.

    .npy                            (H, W), (H, W, 1) or (1, H, W) of integers or floats
    8-bit and 16-bit grey PNG       0 to 255, 0 to 65535
    TIFF                            the same, 32-bit integers, 32-bit floats
    grey in other formats           0 to 255, with what their compression did to it

Nothing is scaled and no value has a meaning here. EXIF orientation is applied, as it is to the pictures beside.
"""

from pathlib import Path
from typing import Any

from .images import MAX_PIXELS, MIN_SIDE, READABLE, InvalidImageError, opened, read_size, upright

RAW_READABLE = READABLE | {".npy"}

# Pillow's modes of one channel. Those of palettes hold no values, but numbers of colours.
_VALUES = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def read_raw_size(path: Path) -> tuple[int, int]:
    """(width, height), from the header alone.

    Raises:
        InvalidImageError: it cannot be read, or is empty, huge or tiny.
    """
    if path.suffix.lower() != ".npy":
        return read_size(path)
    height, width = _plane(path).shape
    return width, height


def read_raw(path: Path) -> Any:
    """The values as a NumPy array, (H, W) float32.

    Raises:
        InvalidImageError: as ``read_raw_size``, and when there is more than one value a pixel.
    """
    import numpy as np

    if path.suffix.lower() == ".npy":
        return np.array(_plane(path), dtype=np.float32)
    with opened(path) as image:
        if image.mode not in _VALUES:
            raise InvalidImageError(
                f"has mode {image.mode} and not one value a pixel; save it as 8-bit or 16-bit grey PNG, 32-bit TIFF or "
                ".npy"
            )
        return np.array(upright(image), dtype=np.float32)


def _plane(path: Path) -> Any:
    """A .npy file as an (H, W) array that is read where it is used; no pickle is ever opened."""
    import numpy as np

    try:
        values: Any = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InvalidImageError(f"damaged, cut off or no array of numbers ({error}); save it with numpy.save") from None
    shape = values.shape
    if values.ndim == 3 and 1 in (shape[0], shape[-1]):
        values = values[0] if shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise InvalidImageError(f"holds {values.dtype} of shape {shape}; save numbers of shape (height, width)")
    if values.size > MAX_PIXELS or min(values.shape) < MIN_SIDE:
        height, width = values.shape
        raise InvalidImageError(
            f"{width} x {height} is outside {MIN_SIDE} a side to {MAX_PIXELS / 1e6:.0f} million pixels"
        )
    return values
