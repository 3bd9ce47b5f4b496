"""Reads the images of a training set as upright 8-bit RGB.

RGB, grey, 1-bit, palette     converted by Pillow
any kind of transparency      composited over white
16-bit grey, 32-bit integers  divided by 257 (Pillow's own conversion clips at 255)
CMYK, LAB                     converted to sRGB with the embedded profile, or by Pillow if there is none
EXIF orientation              applied
animations, several pages     refused, as it is not clear which frame is meant
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READABLE = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"}
UNREADABLE = {".heic", ".heif", ".psd", ".svg", ".jxl", ".jp2", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw", ".raw"}

# Decoding a larger image takes gigabytes; Pillow warns of a decompression bomb at the same size.
MAX_PIXELS = 89_478_485
MIN_SIDE = 8
ORIENTATION = 0x0112


class InvalidImageError(ValueError):
    """The reason why an image cannot be used; the caller adds the name of the file."""


@dataclass(frozen=True)
class InvalidFile:
    """A file that cannot be used, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file says: (width, height) of the upright image, and whether it has transparency."""

    size: tuple[int, int]
    transparent: bool


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image, from its header alone. Raises InvalidImageError as ``read_header``."""
    return read_header(path).size


def read_header(path: Path) -> ImageHeader:
    """Size and transparency of an image, from its header alone.

    Raises:
        InvalidImageError: the file is not an image, is empty or animated, or the image is too large or too small.
    """
    with opened(path) as image:
        transparent = bool(image.has_transparency_data)
        if image.format == "TIFF":  # whether its size is upright before decoding depends on Pillow's version
            return ImageHeader(upright(image).size, transparent)
        width, height = image.size
        turned = not _hides_exif(image) and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return ImageHeader((height, width) if turned else (width, height), transparent)


def read_image(path: Path) -> Any:
    """The upright image as a Pillow image in mode RGB.

    Raises:
        InvalidImageError: as ``read_size``, or the file is truncated or damaged.
    """
    with opened(path) as image:
        return _to_rgb(upright(image))


def read_mask(path: Path) -> Any:
    """A loss mask as an upright Pillow image in mode L: white is trained on, black is ignored.

    Raises:
        InvalidImageError: as ``read_image``, or the mask is completely black.
    """
    mask = read_image(path).convert("L")
    if mask.getextrema()[1] == 0:
        raise InvalidImageError(
            "the mask is completely black, so nothing would be trained; paint the parts to train on white"
        )
    return mask


def read_alpha(path: Path) -> Any:
    """The transparency of an image as a loss mask, an upright Pillow image in mode L: opaque is trained on.

    Raises:
        InvalidImageError: as ``read_image``, or the image is completely transparent.
    """
    with opened(path) as image:
        alpha = upright(image).convert("RGBA").getchannel("A")
    if alpha.getextrema()[1] == 0:
        raise InvalidImageError("the image is completely transparent, so nothing would be trained")
    return alpha


def upright(image: Any) -> Any:
    """The decoded image, rotated and mirrored as its EXIF orientation says."""
    from PIL import ImageOps

    hidden = _hides_exif(image)
    image.load()
    return image if hidden else ImageOps.exif_transpose(image)


def _hides_exif(image: Any) -> bool:
    """Whether EXIF data could follow the pixels of a PNG; it is ignored, as reading it means decoding the file."""
    return image.format == "PNG" and "exif" not in image.info


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The image at ``path``; all errors inside of the block become InvalidImageErrors."""
    from PIL import Image, UnidentifiedImageError

    try:
        if path.stat().st_size == 0:
            raise InvalidImageError("the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit is checked below
            with Image.open(path) as image:
                _check(image)
                yield image
    except InvalidImageError:
        raise
    except UnidentifiedImageError:
        raise InvalidImageError("not an image, or in a format that cannot be read; save it as PNG or JPEG") from None
    except (FileNotFoundError, PermissionError) as error:
        raise InvalidImageError(
            f"cannot be opened ({error.strerror}); check the link or the permissions of the file"
        ) from None
    except Image.DecompressionBombError:
        raise InvalidImageError(f"larger than {MAX_PIXELS / 1e6:.0f} million pixels; scale it down") from None
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, KeyError, IndexError, TypeError) as error:
        # Decoders raise all of these on damaged files.
        raise InvalidImageError(f"damaged or truncated ({error}); save it again") from None


def _check(image: Any) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InvalidImageError(f"{width} x {height} is more than {MAX_PIXELS / 1e6:.0f} million pixels; scale it down")
    if min(width, height) < MIN_SIDE:
        raise InvalidImageError(
            f"{width} x {height} is too small to train on; images need at least {MIN_SIDE} x {MIN_SIDE} pixels"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # cameras append previews to a JPEG and call it MPO
        raise InvalidImageError(f"has several frames or pages ({frames} frames); save the one to train on as an image")


def _to_rgb(image: Any) -> Any:
    """Any Pillow image in mode RGB."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    if image.mode in ("CMYK", "LAB") and image.info.get("icc_profile"):
        return _through_profile(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Any) -> Any:
    """16-bit or 32-bit grey as 8-bit RGB; floating-point values are expected in [0, 1]."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > (1 if image.mode == "F" else 65535):
        wanted = "0 to 1" if image.mode == "F" else "0 to 65535"
        raise InvalidImageError(f"has values outside {wanted}; save it as an 8-bit or 16-bit image")
    values = values * 255 if image.mode == "F" else values / 257
    return Image.fromarray(np.round(values).astype(np.uint8)).convert("RGB")


def _through_profile(image: Any) -> Any:
    """A CMYK or LAB image in sRGB, converted with its colour profile, or by Pillow if the profile is unusable."""
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        return image.convert("RGB")
