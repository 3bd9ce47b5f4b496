"""Aspect buckets: the few image sizes that a training set is brought to, and where an image lies in its size.

All buckets of a resolution R have about the same area R^2 (within an eighth), so that a batch of any of them
costs the same. Their sides are multiples of a step; the square R x R is always one of them. An image goes
to the bucket whose aspect ratio is nearest in the logarithm, is resized to cover it and cropped to it:

    scale = max(bucket_width / width, bucket_height / height) * zoom
    left  = round(x * (width * scale - bucket_width)),    top likewise;    x = y = 1/2 is the centre
"""

import math
from dataclasses import dataclass

AREA_TOLERANCE = 1 / 8
MAX_ASPECT = 4.0


@dataclass(frozen=True, order=True)
class Bucket:
    """An image size in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Placement:
    """How an image becomes its bucket's size: resized to ``width`` x ``height``, then cropped at (left, top)."""

    width: int
    height: int
    left: int
    top: int


def make_buckets(resolution: int, step: int = 64, factor: int = 8) -> list[Bucket]:
    """All buckets of a resolution, ascending by width.

    Args:
        resolution: side of the square bucket in pixels.
        step: sides of the other buckets are multiples of it, in pixels.
        factor: pixels a latent; resolution and step must be multiples of it.

    Raises:
        ValueError: names the value that is no multiple of ``factor``.
    """
    for name, value in (("resolution", resolution), ("bucket step", step)):
        if value < factor or value % factor:
            raise ValueError(
                f"{name} is {value}, but this VAE makes one latent of {factor} x {factor} pixels; choose a multiple of "
                f"{factor}, such as {max(factor, round(value / factor) * factor)}"
            )
    area = resolution * resolution
    found = {Bucket(resolution, resolution)}
    for width in range(step, int(resolution * MAX_ASPECT) + 1, step):
        height = max(step, round(area / width / step) * step)
        if abs(width * height / area - 1) <= AREA_TOLERANCE and max(width / height, height / width) <= MAX_ASPECT:
            found |= {Bucket(width, height), Bucket(height, width)}
    return sorted(found)


def nearest_bucket(width: int, height: int, buckets: list[Bucket]) -> Bucket:
    """The bucket whose aspect ratio is nearest to that of an image; of two alike, the larger."""
    aspect = math.log(width / height)

    def distance(bucket: Bucket) -> tuple[float, int]:
        return round(abs(aspect - math.log(bucket.width / bucket.height)), 9), -bucket.width * bucket.height

    return min(buckets, key=distance)


def needs_upscaling(width: int, height: int, bucket: Bucket) -> bool:
    """Whether an image is smaller than its bucket in either direction."""
    return width < bucket.width or height < bucket.height


def largest_zoom(width: int, height: int, bucket: Bucket) -> float:
    """The largest zoom that does not enlarge the image's pixels, at least 1."""
    return max(1.0, min(width / bucket.width, height / bucket.height))


def place(width: int, height: int, bucket: Bucket, zoom: float = 1.0, x: float = 0.5, y: float = 0.5) -> Placement:
    """Where an image of that size lies in its bucket.

    Args:
        width, height: of the image, pixels.
        zoom: 1 covers the bucket exactly; z > 1 shows 1/z of that, so a smaller part of the image.
        x, y: position of the crop in what is left over, 0 left or top, 1 right or bottom.
    """
    scale = max(bucket.width / width, bucket.height / height) * zoom
    resized_width, resized_height = max(bucket.width, round(width * scale)), max(bucket.height, round(height * scale))
    left, top = round(x * (resized_width - bucket.width)), round(y * (resized_height - bucket.height))
    return Placement(resized_width, resized_height, left, top)
