"""Aspect ratio buckets: the image sizes of a training set, and how an image is resized and cropped to one of them.

All buckets of a resolution R have an area within 1/8 of R^2, so that batches of all buckets cost about the same. Their
sides are multiples of a step, and the square R x R is always one of them. Each image is assigned to the bucket with the
nearest logarithm of the aspect ratio, resized to cover it, and cropped:

    scale = max(bucket_width / width, bucket_height / height) * zoom
    left  = round(x * (width * scale - bucket_width)),    top likewise;    x = y = 1/2 is the centre

or, if images are padded, with min instead of max: then left or top is below 0, and the edges
of the image are repeated around it.
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
    """Resize to ``width`` x ``height`` pixels, then crop to the bucket at (``left``, ``top``)."""

    width: int
    height: int
    left: int
    top: int


def make_buckets(resolution: int, step: int = 64, factor: int = 8) -> list[Bucket]:
    """All buckets of a resolution, in ascending order of width.

    Args:
        resolution: side of the square bucket, in pixels.
        step: the sides of all other buckets are multiples of this many pixels.
        factor: downscaling factor of the VAE; resolution and step must be multiples of it.

    Raises:
        ValueError: resolution or step is not a multiple of ``factor``.
    """
    for name, value in (("resolution", resolution), ("bucket step", step)):
        if value < factor or value % factor:
            raise ValueError(
                f"{name} is {value}, but this VAE downscales images by {factor}; choose a multiple of {factor}, such "
                f"as {max(factor, round(value / factor) * factor)}"
            )
    area = resolution * resolution
    found = {Bucket(resolution, resolution)}
    for width in range(step, int(resolution * MAX_ASPECT) + 1, step):
        height = max(step, round(area / width / step) * step)
        if abs(width * height / area - 1) <= AREA_TOLERANCE and max(width / height, height / width) <= MAX_ASPECT:
            found |= {Bucket(width, height), Bucket(height, width)}
    return sorted(found)


def nearest_bucket(width: int, height: int, buckets: list[Bucket]) -> Bucket:
    """The bucket with the aspect ratio nearest to that of an image; of equally near ones, the larger."""
    aspect = math.log(width / height)

    def distance(bucket: Bucket) -> tuple[float, int]:
        return round(abs(aspect - math.log(bucket.width / bucket.height)), 9), -bucket.width * bucket.height

    return min(buckets, key=distance)


def needs_upscaling(width: int, height: int, bucket: Bucket, pad: bool = False) -> bool:
    """Whether an image is narrower or lower than its bucket; narrower and lower, if it may be padded."""
    narrower, lower = width < bucket.width, height < bucket.height
    return narrower and lower if pad else narrower or lower


def largest_zoom(width: int, height: int, bucket: Bucket) -> float:
    """The largest zoom that does not upscale the image, at least 1."""
    return max(1.0, min(width / bucket.width, height / bucket.height))


def place(
    width: int, height: int, bucket: Bucket, zoom: float = 1.0, x: float = 0.5, y: float = 0.5, pad: bool = False
) -> Placement:
    """How an image of a given size is resized and cropped to its bucket.

    Args:
        width, height: size of the image in pixels.
        bucket: the bucket of the image.
        zoom: 1 resizes the image until it just covers the bucket; z > 1 enlarges it further, so that 1/z remains.
        x, y: relative position of the crop: 0 is left or top, 0.5 the centre, 1 right or bottom.
        pad: whether the image is resized until all of it is inside the bucket, with left or top below 0 where it does
            not fill it.
    """
    scales = bucket.width / width, bucket.height / height
    scale = (min(scales) if pad else max(scales)) * zoom
    least = Bucket(1, 1) if pad else bucket
    resized_width, resized_height = max(least.width, round(width * scale)), max(least.height, round(height * scale))
    left, top = round(x * (resized_width - bucket.width)), round(y * (resized_height - bucket.height))
    return Placement(resized_width, resized_height, left, top)
