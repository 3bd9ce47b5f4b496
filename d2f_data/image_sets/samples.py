"""Turns images into samples: one per variant of an image, with its bucket, its crop and its key in the latent cache.

A key is the hash of exactly what determines a latent: the bytes of image and mask, the bucket, the crop, the flip and
colour parameters, and the VAE. So cached latents are found again after files are renamed, captions are edited, or a
setting is changed and changed back.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ..fingerprints import cached_file_digest
from .augment import Augmentation, AugmentationParams, encoded_crop_left, sample_params
from .buckets import Bucket, Placement, largest_zoom, make_buckets, nearest_bucket, needs_upscaling, place
from .folder import InvalidFile, TrainingImage
from .images import InvalidImageError, read_alpha, read_header, read_image, read_mask
from .latent_cache import Cache, cache_key
from .pixels.resizing import resize
from .pixels.store import PixelStore

MASK_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class SetSettings:
    """Settings of a training set.

    Attributes:
        resolution: side of the square bucket, in pixels.
        step: the sides of all other buckets are multiples of this many pixels.
        factor: downscaling factor of the VAE.
        repeats: rows per sample, multiplied by the repeats of the image's folder.
        variants: augmented variants per image.
        augmentation: which augmentations are allowed.
        upscale: whether images that are smaller than their bucket are enlarged; otherwise they are left out.
        seed: seed of the augmentation.
        alpha_mask: whether the transparency of an image without a mask file is its loss mask.
        unmasked: loss weight of what a mask leaves out, in [0, 1].
        pad: whether images are padded to their bucket instead of cropped; nothing is learned from the padding.
        more: further resolutions, at which every image is trained on as well.
    """

    resolution: int = 512
    step: int = 64
    factor: int = 8
    repeats: int = 1
    variants: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)
    upscale: bool = True
    seed: int = 0
    alpha_mask: bool = False
    unmasked: float = 0.0
    pad: bool = False
    more: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("repeats", "variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.unmasked <= 1:
            raise ValueError(f"unmasked_weight must be in [0, 1], got {self.unmasked:g}")

    @property
    def distinct_variants(self) -> int:
        """The number of variants per image that can differ; no others are encoded."""
        return self.augmentation.distinct(self.variants)


@dataclass(frozen=True)
class Sample:
    """One variant of an image, resized and cropped to its bucket.

    Attributes:
        image: the image.
        size: (width, height) of the upright image, in pixels.
        bucket: the size that it is cropped to.
        placement: how it is resized and cropped.
        params: augmentation parameters of the variant.
        key: key of its latent in the cache.
        repeats: number of rows with this sample.
        transparent: whether the file has an alpha channel or a transparent colour.
    """

    image: TrainingImage
    size: tuple[int, int]
    bucket: Bucket
    placement: Placement
    params: AugmentationParams
    key: str
    repeats: int
    transparent: bool = False

    @property
    def padded(self) -> bool:
        """Whether the image does not fill its bucket."""
        return self.placement.width < self.bucket.width or self.placement.height < self.bucket.height

    @property
    def masked(self) -> bool:
        """Whether parts of it are left out of the loss."""
        return self.image.masked or self.padded

    @property
    def cut(self) -> float:
        """The part of the resized image that the crop removes, in [0, 1)."""
        width, height = self.placement.width, self.placement.height
        return 1 - min(width, self.bucket.width) * min(height, self.bucket.height) / (width * height)

    def sizes(self) -> dict[str, int]:
        """SDXL's size conditioning in pixels: original size, crop and target size, under ComfyUI's names."""
        return {
            "width": self.size[0],
            "height": self.size[1],
            "crop_w": encoded_crop_left(self.params, self.placement, self.bucket),
            "crop_h": max(0, self.placement.top),
            "target_width": self.bucket.width,
            "target_height": self.bucket.height,
        }


@dataclass(frozen=True)
class SetPlan:
    """The samples of a training folder.

    Attributes:
        samples: all samples, sorted by bucket, name and variant.
        missing: the samples whose latents are not in the cache yet.
        invalid: the files that cannot be used.
        small: the images that are left out because they are smaller than their bucket.
    """

    samples: list[Sample]
    missing: list[Sample]
    invalid: list[InvalidFile]
    small: list[InvalidFile]

    @property
    def rows(self) -> list[list[Sample]]:
        """The sample of each row, one list per bucket."""
        buckets: dict[Bucket, list[Sample]] = {}
        for sample in self.samples:
            buckets.setdefault(sample.bucket, []).extend([sample] * sample.repeats)
        return list(buckets.values())


def plan_set(
    images: Iterable[TrainingImage], settings: SetSettings, cache: Cache, vae: str, store: PixelStore | None = None
) -> Iterator[SetPlan]:
    """Plan the samples of all images. An image with latents missing in the cache is decoded once to check it.

    Args:
        images: images of the training folder.
        settings: settings of the set.
        cache: the latent cache.
        vae: identity of the VAE, part of every key.
        store: keeps the pixels of the missing samples for the encoder.

    Yields:
        The plan so far, after each image; the last one is complete and sorted.
    """
    sizes = dict.fromkeys((settings.resolution, *settings.more))
    buckets = [make_buckets(size, settings.step, settings.factor) for size in sizes]
    plan = SetPlan([], [], [], [])
    for image in images:
        try:
            samples = plan_image(image, settings, buckets, vae)
            missing = [sample for sample in samples if not cache.contains(sample.key)]
            if missing:
                decoded = read_image(image.path)
                _check_mask(samples[0].image, samples[0].size)
        except InvalidImageError as error:
            plan.invalid.append(InvalidFile(image.name, str(error)))
        else:
            large = [one for one in samples if settings.upscale or not _is_small(one, settings.pad)]
            plan.samples.extend(large)
            wanted = [one for one in missing if one in large]
            plan.missing.extend(wanted)
            for sample in wanted:
                if store:
                    store.keep(sample.key, resize(decoded, sample.placement, "LANCZOS"))
            if not large:
                size, bucket = "{} x {}".format(*samples[0].size), min(sample.bucket for sample in samples)
                plan.small.append(InvalidFile(image.name, f"{size} is smaller than its bucket {bucket}"))
        yield plan
    for found in (plan.samples, plan.missing):
        found.sort(key=lambda sample: sample.bucket)
    yield plan


def _is_small(sample: Sample, pad: bool) -> bool:
    return needs_upscaling(*sample.size, sample.bucket, pad)


def plan_image(image: TrainingImage, settings: SetSettings, buckets: list[list[Bucket]], vae: str) -> list[Sample]:
    """One sample per resolution and variant of an image.

    Args:
        image: the image.
        settings: settings of the set.
        buckets: of each resolution.
        vae: identity of the VAE, part of every key.

    Raises:
        InvalidImageError: the image cannot be read.
    """
    header = read_header(image.path)
    width, height = size = header.size
    if settings.alpha_mask and header.transparent and image.mask is None:
        image = replace(image, alpha=True)
    digest, mask_digest = cached_file_digest(image.path), cached_file_digest(image.mask) if image.mask else ""
    mask_digest = "alpha" if image.alpha else mask_digest
    samples = []
    for bucket in (nearest_bucket(width, height, each) for each in buckets):
        for variant in range(settings.distinct_variants):
            params = sample_params(settings.augmentation, settings.seed, digest, variant)
            zoom = params.zoom if settings.upscale else min(params.zoom, largest_zoom(width, height, bucket))
            placement = place(width, height, bucket, zoom, params.x, params.y, settings.pad)
            key = cache_key(digest, mask_digest, str(bucket), _key_parts(placement), _key_parts(params), vae)
            repeats = settings.repeats * image.repeats
            samples.append(Sample(image, size, bucket, placement, params, key, repeats, header.transparent))
    return samples


def _key_parts(record: Placement | AugmentationParams) -> list[str]:
    """The fields that change pixels; zoom, x and y are left out, as the placement contains their effect."""
    return [f"{name}={value!r}" for name, value in vars(record).items() if name not in ("zoom", "x", "y")]


def _check_mask(image: TrainingImage, size: tuple[int, int]) -> None:
    """Raise InvalidImageError if the mask cannot be read or has another aspect ratio than the image."""
    if image.alpha:
        read_alpha(image.path)
    if image.mask is None:
        return
    name = image.mask.name
    try:
        width, height = read_mask(image.mask).size
    except InvalidImageError as error:
        raise InvalidImageError(f"its mask {name}: {error}") from None
    if abs(width * size[1] / (height * size[0]) - 1) > MASK_ASPECT_TOLERANCE:
        raise InvalidImageError(
            f"its mask {name} is {width} x {height}, but the image is {size[0]} x {size[1]}, which is another aspect "
            "ratio; save the mask in the image's size"
        )
