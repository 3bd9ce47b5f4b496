"""Report and contact sheet of a training set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .folder import InvalidFile
from .samples import Sample, SetPlan, SetSettings
from .training_set import read_pixels

MAX_LISTED = 20


class InvalidFilesError(ValueError):
    """Some files in a training folder cannot be used, and the user chose to stop in this case."""

    def __init__(self, folder: Path, invalid: Sequence[InvalidFile]) -> None:
        super().__init__(
            f"{len(invalid)} of the files in {folder} cannot be used:\n{list_files(invalid)}\nCorrect or remove them, "
            "or set 'odd_files' to skip to train without them"
        )


@dataclass(frozen=True)
class EncodingStats:
    """Counts of cached and newly encoded entries, and the size of the cache on disk in bytes."""

    latents_cached: int
    latents_encoded: int
    captions_cached: int
    captions_encoded: int
    cache_bytes: int


def describe(folder: Path, cache: Path, plan: SetPlan, settings: SetSettings, stats: EncodingStats) -> str:
    """The report of a training set: images, buckets, cache, and the files that are left out."""
    images = {sample.image.name for sample in plan.samples}
    masks = {sample.image.name for sample in plan.samples if sample.image.mask is not None}
    buckets = plan.rows
    lines = [
        f"Training set {folder}",
        f"{len(images)} images, {sum(map(len, buckets))} rows in {len(buckets)} buckets, {len(masks)} with a loss mask",
        *(
            f"  {rows[0].bucket}: {len(rows)} rows of {len({row.image.name for row in rows})} images"
            for rows in buckets
        ),
        f"latents: {stats.latents_cached} from the cache, {stats.latents_encoded} encoded",
        f"captions: {stats.captions_cached} from the cache, {stats.captions_encoded} encoded",
        f"cache: {stats.cache_bytes / 1e6:.1f} MB in {cache}; delete the folder to free the space",
    ]
    if settings.distinct_variants < settings.variants:
        made, wanted = settings.distinct_variants, settings.variants
        lines.append(
            f"variants: {made} instead of {wanted}, since further ones would be identical; turn on crop or colour"
        )
    for title, files in (("left out, too small", plan.small), ("invalid files, skipped", plan.invalid)):
        if files:
            lines.append(f"{title} ({len(files)}):\n{list_files(files)}")
    return "\n".join(lines)


def list_files(files: Sequence[InvalidFile]) -> str:
    """One line per file, for the first 20 files."""
    lines = [f"  {file}" for file in files[:MAX_LISTED]]
    return "\n".join(lines + ([f"  and {len(files) - MAX_LISTED} more"] if len(files) > MAX_LISTED else []))


def contact_sheet(samples: Sequence[Sample], columns: int = 4, tile: int = 192) -> Tensor:
    """An IMAGE (1, H, W, 3) in [0, 1] of up to ``columns``^2 samples as the VAE gets them, labelled with their bucket.

    Args:
        samples: samples to choose from, at equal distances.
        columns: number of columns, and largest number of rows.
        tile: side of a tile, in pixels.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    count = min(len(samples), columns * columns)
    shown = [samples[index * len(samples) // count] for index in range(count)]
    label = 16
    sheet = Image.new("RGB", (min(columns, count) * tile, -(-count // columns) * (tile + label)), "white")
    for index, sample in enumerate(shown):
        pixels = (read_pixels(sample).movedim(0, -1) * 255).round().to(torch.uint8).numpy()
        image = Image.fromarray(pixels)
        image.thumbnail((tile - 4, tile - 4), Image.Resampling.LANCZOS)
        left, top = index % columns * tile, index // columns * (tile + label)
        sheet.paste(image, (left + (tile - image.width) // 2, top + (tile - image.height) // 2))
        mirrored = " mirrored" if sample.params.flip else ""
        ImageDraw.Draw(sheet).text((left + 4, top + tile), f"{sample.bucket}{mirrored}", fill="black")
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255)[None]
