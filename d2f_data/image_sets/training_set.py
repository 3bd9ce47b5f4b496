"""Encodes samples into the latent cache and gathers them as LATENTs.

    encode            a generator that encodes batches of one bucket with the VAE and stores them in the cache
    gather            the latents of a bucket as one tensor, one row per entry of ``SetPlan.rows``
    encode_captions   the same for captions, which have keys of their own, so editing one re-encodes no image

Both encoders are generators, so that progress and cancellation stay outside. A LATENT is one tensor, so repeats are
copies of a row (64 KB per row at 512 x 512); rows are read from the cache straight into that tensor, so that memory
holds each of them once. Repeats of a conditioning share one object.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .augment import augment_image, augment_mask
from .buckets import Bucket
from .images import InvalidImageError, read_alpha, read_image, read_mask
from .latent_cache import SPACE, Cache, cache_key, pack_conditioning, unpack_conditioning
from .pixels.resizing import resize_to_tensor
from .pixels.store import PixelStore
from .samples import Sample

BATCH_PIXELS = 4 * 512 * 512


def read_pixels(sample: Sample, store: PixelStore | None = None) -> Tensor:
    """The pixels of a sample for the VAE, (3, height, width) in [0, 1]. Raises ValueError that names the file.

    Args:
        sample: the sample.
        store: may hold its resized pixels; otherwise its file is decoded.
    """
    pixels = store.get(sample.key) if store else None
    if pixels is None:
        try:
            image = read_image(sample.image.path)
        except InvalidImageError as error:
            raise ValueError(f"{sample.image.name} was changed while the node was running: {error}") from None
        pixels = resize_to_tensor(image, sample.placement, "LANCZOS")
    return augment_image(pixels, sample.params, sample.placement, sample.bucket)


def read_mask_pixels(sample: Sample) -> Tensor:
    """The loss mask of a sample, (1, height, width) uint8, 255 = trained on; all 255 if the image has no mask."""
    image = sample.image
    if not image.masked:
        return (inside(sample) * 255).to(torch.uint8)
    stored = read_alpha(image.path) if image.mask is None else read_mask(image.mask)
    mask = resize_to_tensor(stored, sample.placement, "BILINEAR")
    return (augment_mask(mask, sample.params, sample.placement, sample.bucket) * 255).round().to(torch.uint8)


def inside(sample: Sample) -> Tensor:
    """1 where the image is and 0 in the padding, (1, height, width)."""
    if not sample.padded:
        return torch.ones(1, sample.bucket.height, sample.bucket.width)
    whole = torch.ones(1, sample.placement.height, sample.placement.width)
    return augment_mask(whole, sample.params, sample.placement, sample.bucket)


def encode(
    missing: Sequence[Sample],
    cache: Cache,
    encode_images: Callable[[Tensor, list[str]], Tensor],
    store: PixelStore | None = None,
) -> Iterator[int]:
    """Encode samples and store them in the cache, in batches of one bucket.

    Args:
        missing: samples that are not in the cache.
        cache: the latent cache.
        encode_images: IMAGE (B, H, W, 3) in [0, 1], and the images' names for errors -> latents (B, C, h, w) of the
            VAE.
        store: may hold their pixels.

    Yields:
        The size of each batch.
    """
    for batch in batches(missing):
        pixels = torch.stack([read_pixels(sample, store) for sample in batch]).movedim(1, -1).contiguous()
        latents = encode_images(pixels, [sample.image.name for sample in batch])
        for sample, latent in zip(batch, latents, strict=True):
            tensors = {"latent": latent}
            if sample.masked:
                tensors["mask"] = read_mask_pixels(sample)
            cache.save(
                sample.key, tensors, {"space": SPACE, "bucket": str(sample.bucket), "drawn": repr(sample.params)}
            )
        yield len(batch)


def batches(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Batches of one bucket, each of up to ``BATCH_PIXELS`` pixels; samples with equal keys are encoded once."""
    buckets: dict[Bucket, dict[str, Sample]] = {}
    for sample in samples:
        buckets.setdefault(sample.bucket, {})[sample.key] = sample
    for bucket, found in buckets.items():
        size, rest = max(1, BATCH_PIXELS // (bucket.width * bucket.height)), list(found.values())
        yield from (rest[start : start + size] for start in range(0, len(rest), size))


def gather(rows: Sequence[Sample], cache: Cache, unmasked: float = 0.0) -> dict[str, Tensor]:
    """The LATENT of a bucket: "samples" (B, C, h, w) and, if any row has a mask, "noise_mask" (B, 1, H, W) in [0, 1].

    Args:
        rows: the samples, one per row.
        cache: the latent cache.
        unmasked: loss weight of what a mask leaves out: ``unmasked + (1 - unmasked) * mask``, 0 in the padding.

    Raises:
        ValueError: a cache file was removed or damaged in the meantime; names it.
    """
    with_masks = any(sample.masked for sample in rows)
    latent: dict[str, Tensor] = {}
    last, stored = "", dict[str, Tensor]()
    for row, sample in enumerate(rows):
        if sample.key != last:
            last, stored = sample.key, cache.load(sample.key)
        if not latent:
            latent["samples"] = torch.empty(len(rows), *stored["latent"].shape, dtype=stored["latent"].dtype)
            if with_masks:
                latent["noise_mask"] = torch.ones(len(rows), 1, sample.bucket.height, sample.bucket.width)
        latent["samples"][row] = stored["latent"]
        if "mask" in stored:
            kept = unmasked + (1 - unmasked) * (stored["mask"].float() / 255)
            latent["noise_mask"][row] = kept * inside(sample) if sample.padded else kept
    return latent


def encode_captions(
    captions: Iterable[str],
    cache: Cache,
    clip: str,
    encode_caption: Callable[[str], list],
    conditionings: dict[str, list],
    literal: Collection[str] = (),
) -> Iterator[int]:
    """Load the conditioning of captions from the cache, or encode and store it.

    Args:
        captions: distinct captions.
        cache: the caption cache.
        clip: identity of the CLIP, part of every key.
        encode_caption: caption -> CONDITIONING; one that a file cannot store is encoded every time.
        conditionings: the result, caption -> CONDITIONING; filled while the generator runs.
        literal: captions that are encoded as they are written, although they could be read as prompts.

    Yields:
        The number of captions encoded so far.
    """
    encoded = 0
    for caption in captions:
        key = cache_key(caption, clip, "literal") if caption in literal else cache_key(caption, clip)
        if cache.contains(key):
            conditionings[caption] = unpack_conditioning(*cache.load_with_metadata(key))
        else:
            conditionings[caption] = encode_caption(caption)
            encoded += 1
            packed = pack_conditioning(conditionings[caption])
            if packed is not None:
                cache.save(key, *packed)
        yield encoded


def with_options(conditioning: list, options: Mapping[str, Any]) -> list:
    """A CONDITIONING with further options, such as SDXL's sizes of the image; the tensors are shared."""
    return [[cond, {**own, **options}] for cond, own in conditioning]
