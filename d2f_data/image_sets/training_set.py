"""Samples as tensors: pixels, latents into the cache, latents out of it.

    encode            a generator: a batch of one bucket at a time goes through the VAE and into the cache
    gather            the latents of a bucket as one tensor, a row for each entry of ``SetPlan.rows``
    encode_captions   the same for text; captions have keys of their own, so a new one costs no image

What happens around the batches (progress, cancelling) is the caller's. Repeats are repeated rows: a LATENT is one
tensor, so they are copies (64 KB a row at 512 x 512); each row is read from the cache into its place, so that nothing
is held twice. Conditioning has no such need, repeats share the object.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .augment import apply, apply_to_mask
from .buckets import Bucket, Placement
from .images import InvalidImageError, read_image, read_mask
from .latent_cache import SPACE, Cache, key_of, pack_conditioning, unpack_conditioning
from .samples import Sample

BATCH_PIXELS = 4 * 512 * 512


def read_pixels(sample: Sample) -> Tensor:
    """The image of a sample as it is encoded, (3, height, width) in [0, 1]. Raises ValueError that names the file."""
    placement = sample.placement
    try:
        image = read_image(sample.item.path)
    except InvalidImageError as error:
        raise ValueError(f"{sample.item.name} was changed while it was used: {error}") from None
    return apply(resized(image, placement, "LANCZOS"), sample.drawn, placement, sample.bucket)


def read_mask_pixels(sample: Sample) -> Tensor:
    """The mask of a sample in its bucket, (1, height, width) uint8; of a sample without a mask, all white."""
    if sample.item.mask is None:
        return torch.full((1, sample.bucket.height, sample.bucket.width), 255, dtype=torch.uint8)
    mask = resized(read_mask(sample.item.mask), sample.placement, "BILINEAR")
    return (apply_to_mask(mask, sample.drawn, sample.placement, sample.bucket) * 255).round().to(torch.uint8)


def resized(image: Any, placement: Placement, how: str) -> Tensor:
    """A Pillow image in the size of its placement, (C, H, W) in [0, 1]."""
    import numpy as np
    from PIL import Image

    image = image.resize((placement.width, placement.height), getattr(Image.Resampling, how))
    values = torch.from_numpy(np.array(image)).to(torch.float32) / 255
    return values.movedim(-1, 0) if values.ndim == 3 else values[None]


def encode(missing: Sequence[Sample], cache: Cache, encode_images: Callable[[Tensor], Tensor]) -> Iterator[int]:
    """Encode samples into the cache, a batch of one bucket at a time; yields the size of each batch.

    Args:
        encode_images: (B, H, W, 3) in [0, 1] -> (B, C, h, w) latents of the VAE.
    """
    for batch in batches(missing):
        latents = encode_images(torch.stack([read_pixels(sample) for sample in batch]).movedim(1, -1))
        for sample, latent in zip(batch, latents, strict=True):
            tensors = {"latent": latent}
            if sample.item.mask is not None:
                tensors["mask"] = read_mask_pixels(sample)
            cache.save(sample.key, tensors, {"space": SPACE, "bucket": str(sample.bucket), "drawn": repr(sample.drawn)})
        yield len(batch)


def batches(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Runs of samples of one bucket, as many as fit a fixed number of pixels; one latent is encoded once."""
    buckets: dict[Bucket, dict[str, Sample]] = {}
    for sample in samples:
        buckets.setdefault(sample.bucket, {})[sample.key] = sample
    for bucket, found in buckets.items():
        size, rest = max(1, BATCH_PIXELS // (bucket.width * bucket.height)), list(found.values())
        yield from (rest[start : start + size] for start in range(0, len(rest), size))


def gather(rows: Sequence[Sample], cache: Cache) -> dict[str, Tensor]:
    """The LATENT of a bucket: "samples" (B, C, h, w) and, if any row has one, "noise_mask" (B, 1, H, W) in [0, 1].

    Raises:
        ValueError: names a cache file that has gone since it was made.
    """
    with_masks = any(sample.item.mask is not None for sample in rows)
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
            latent["noise_mask"][row] = stored["mask"].float() / 255
    return latent


def encode_captions(
    captions: Iterable[str],
    cache: Cache,
    clip: str,
    encode_caption: Callable[[str], list],
    conditionings: dict[str, list],
) -> Iterator[int]:
    """Conditioning of captions, out of the cache or encoded into it; yields how many were encoded.

    Args:
        captions: each once.
        clip: identity of the CLIP, part of every key.
        encode_caption: caption -> the host's CONDITIONING; what no file can hold is encoded every time.
        conditionings: gets an entry a caption.
    """
    encoded = 0
    for caption in captions:
        key = key_of(caption, clip)
        if cache.holds(key):
            conditionings[caption] = unpack_conditioning(*cache.load_with_facts(key))
        else:
            conditionings[caption] = encode_caption(caption)
            encoded += 1
            packed = pack_conditioning(conditionings[caption])
            if packed is not None:
                cache.save(key, *packed)
        yield encoded


def with_sizes(conditioning: list, sizes: dict[str, int]) -> list:
    """A CONDITIONING with the sizes of an image in it; the tensors are shared."""
    return [[cond, {**options, **sizes}] for cond, options in conditioning]
