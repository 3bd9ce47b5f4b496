"""Reads targets with one measured value per pixel, such as distance, height or temperature, exactly as stored.

    .npy                            (H, W), (H, W, 1) or (1, H, W) of integers or floats
    .npz                            the same, with one array in it
    .pfm                            32-bit floats
    8-bit and 16-bit grey PNG       0 to 255, 0 to 65535
    TIFF                            the same, also 32-bit integers and 32-bit floats
    other grey image formats        0 to 255, with the artefacts of lossy compression

Values are neither scaled nor interpreted. EXIF orientation is applied, as it is to the images.
"""

from pathlib import Path
from typing import Any

from .images import MAX_PIXELS, MIN_SIDE, READABLE, InvalidImageError, opened, read_size, upright

_ARRAYS = {".npy", ".npz"}
RAW_READABLE = READABLE | _ARRAYS | {".pfm"}

# Pillow's single-channel modes. Palette modes are not among them: they store colour indices.
_VALUES = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def read_raw_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the header alone.

    Raises:
        InvalidImageError: the file cannot be read or is empty, or the image is too large or too small.
    """
    if path.suffix.lower() not in _ARRAYS:
        return read_size(path)
    height, width = _plane(path).shape
    return width, height


def read_raw(path: Path) -> Any:
    """The values as a NumPy array, (H, W) float32.

    Raises:
        InvalidImageError: as ``read_raw_size``, or the file has more than one value per pixel.
    """
    import numpy as np

    if path.suffix.lower() in _ARRAYS:
        return np.array(_plane(path), dtype=np.float32)
    with opened(path) as image:
        if image.mode not in _VALUES:
            raise InvalidImageError(
                f"has mode {image.mode} instead of one value per pixel; save it as 8-bit or 16-bit grey PNG, 32-bit "
                "TIFF or .npy"
            )
        return np.array(upright(image), dtype=np.float32)


def _plane(path: Path) -> Any:
    """The (H, W) array of a .npy file, memory-mapped, or of a .npz file; pickled objects are refused."""
    import zipfile

    import numpy as np

    try:
        values: Any = _only_array(path) if path.suffix.lower() == ".npz" else np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidImageError(
            f"damaged, truncated or not an array of numbers ({error}); save it with numpy.save"
        ) from None
    shape = values.shape
    if values.ndim == 3 and 1 in (shape[0], shape[-1]):
        values = values[0] if shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise InvalidImageError(
            f"holds {values.dtype} of shape {shape}; save integers or floats of shape (height, width)"
        )
    if values.size > MAX_PIXELS or min(values.shape) < MIN_SIDE:
        height, width = values.shape
        raise InvalidImageError(
            f"{width} x {height} is not allowed; sides must have at least {MIN_SIDE} pixels, and the image at most "
            f"{MAX_PIXELS / 1e6:.0f} million"
        )
    return values


def _only_array(path: Path) -> Any:
    """The array in a .npz file."""
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        if len(file.files) != 1:
            raise ValueError(f"it has the arrays {', '.join(file.files) or 'none'}, and one is needed")
        return file[file.files[0]]
