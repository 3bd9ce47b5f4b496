"""From images to samples: each variant of an image in its bucket, with the key of its latent in the cache.

A key is the hash of all that the latent depends on and of nothing else: the bytes of image and mask, the bucket, where
the crop lies, what was drawn for flip and colour, the VAE. So a latent is found again when files are renamed, captions
changed, or a setting is moved and moved back.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..fingerprints import known_file_digest
from .augment import Augmentation, Draw, draw, mirrored_left
from .buckets import Bucket, Placement, largest_zoom, make_buckets, nearest_bucket, needs_upscaling, place
from .folder import InvalidFile, Item
from .images import InvalidImageError, read_image, read_mask, read_size
from .latent_cache import Cache, key_of

MASK_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class SetSettings:
    """How images become samples.

    Attributes:
        resolution: side of the square bucket, pixels.
        step: sides of the other buckets are multiples of it, pixels.
        factor: pixels a latent of the VAE.
        repeats: rows a sample, times what its folder asks for.
        variants: augmented versions of an image.
        augmentation: what may be done to an image.
        upscale: False leaves out images that are smaller than their bucket.
        seed: of the augmentation.
    """

    resolution: int = 512
    step: int = 64
    factor: int = 8
    repeats: int = 1
    variants: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)
    upscale: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("repeats", "variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def distinct_variants(self) -> int:
        """Variants of an image that can differ; no more than those are made."""
        return self.augmentation.distinct(self.variants)


@dataclass(frozen=True)
class Sample:
    """A variant of an item in its bucket.

    Attributes:
        size: width and height of the upright image, pixels.
        key: of its latent in the cache.
        repeats: rows that it gets.
    """

    item: Item
    size: tuple[int, int]
    bucket: Bucket
    placement: Placement
    drawn: Draw
    key: str
    repeats: int

    def sizes(self) -> dict[str, int]:
        """What SDXL is told of an image: original size, crop and target size in pixels, named as the host does."""
        return {
            "width": self.size[0],
            "height": self.size[1],
            "crop_w": mirrored_left(self.drawn, self.placement, self.bucket),
            "crop_h": self.placement.top,
            "target_width": self.bucket.width,
            "target_height": self.bucket.height,
        }


@dataclass(frozen=True)
class SetPlan:
    """What a folder gives.

    Attributes:
        samples: by bucket, then by name and variant.
        missing: those that the cache does not hold.
        odd: files that cannot be used.
        small: images that were left out, since they are smaller than their bucket.
    """

    samples: list[Sample]
    missing: list[Sample]
    odd: list[InvalidFile]
    small: list[InvalidFile]

    @property
    def rows(self) -> list[list[Sample]]:
        """The sample of each row, a list a bucket."""
        buckets: dict[Bucket, list[Sample]] = {}
        for sample in self.samples:
            buckets.setdefault(sample.bucket, []).extend([sample] * sample.repeats)
        return list(buckets.values())


def survey(items: Iterable[Item], settings: SetSettings, cache: Cache, vae: str) -> Iterator[SetPlan]:
    """Look at all images; yields the plan so far after each, the last one is the whole.

    Args:
        cache: of latents.
        vae: identity of the VAE, part of every key.

    An image that the cache does not hold in full is decoded once to see whether it can be.
    """
    buckets = make_buckets(settings.resolution, settings.step, settings.factor)
    plan = SetPlan([], [], [], [])
    for item in items:
        try:
            samples = plan_item(item, settings, buckets, vae)
            missing = [sample for sample in samples if not cache.holds(sample.key)]
            if missing:
                read_image(item.path)
                _check_mask(item, samples[0].size)
        except InvalidImageError as error:
            plan.odd.append(InvalidFile(item.name, str(error)))
        else:
            if settings.upscale or not needs_upscaling(*samples[0].size, samples[0].bucket):
                plan.samples.extend(samples)
                plan.missing.extend(missing)
            else:
                size, bucket = "{} x {}".format(*samples[0].size), samples[0].bucket
                plan.small.append(InvalidFile(item.name, f"{size} is smaller than its bucket {bucket}"))
        yield plan
    for found in (plan.samples, plan.missing):
        found.sort(key=lambda sample: sample.bucket)
    yield plan


def plan_item(item: Item, settings: SetSettings, buckets: list[Bucket], vae: str) -> list[Sample]:
    """All variants of an item. Raises InvalidImageError that says what is wrong with the image or its mask."""
    width, height = size = read_size(item.path)
    bucket = nearest_bucket(width, height, buckets)
    image, mask = known_file_digest(item.path), known_file_digest(item.mask) if item.mask else ""
    samples = []
    for variant in range(settings.distinct_variants):
        drawn = draw(settings.augmentation, settings.seed, image, variant)
        zoom = drawn.zoom if settings.upscale else min(drawn.zoom, largest_zoom(width, height, bucket))
        placement = place(width, height, bucket, zoom, drawn.x, drawn.y)
        key = key_of(image, mask, str(bucket), _numbers(placement), _numbers(drawn), vae)
        samples.append(Sample(item, size, bucket, placement, drawn, key, settings.repeats * item.repeats))
    return samples


def _numbers(record: Placement | Draw) -> list[str]:
    """What a placement or a draw does to the pixels; where the crop came from is in the placement."""
    return [f"{name}={value!r}" for name, value in vars(record).items() if name not in ("zoom", "x", "y")]


def _check_mask(item: Item, size: tuple[int, int]) -> None:
    if item.mask is None:
        return
    name = item.mask.name
    try:
        width, height = read_mask(item.mask).size
    except InvalidImageError as error:
        raise InvalidImageError(f"its mask {name}: {error}") from None
    if abs(width * size[1] / (height * size[0]) - 1) > MASK_ASPECT_TOLERANCE:
        raise InvalidImageError(
            f"its mask {name} is {width} x {height}, of another shape than the image ({size[0]} x {size[1]}); "
            "save the mask in the image's size"
        )
