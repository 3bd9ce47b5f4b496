"""What users see of a training set: a text that counts, and a contact sheet of what is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .folder import InvalidFile
from .samples import Sample, SetPlan, SetSettings
from .training_set import read_pixels

LONGEST_LIST = 20


class InvalidFilesError(ValueError):
    """Files of a training folder cannot be used, and the user wants to know before anything is encoded."""

    def __init__(self, folder: Path, odd: Sequence[InvalidFile]) -> None:
        super().__init__(
            f"{len(odd)} of the files in {folder} cannot be used:\n{list_files(odd)}\nCorrect or remove them, or set "
            "'odd_files' to skip to train without them"
        )


@dataclass(frozen=True)
class Work:
    """What a run took from the cache and what it encoded, and what the cache takes on disk, in bytes."""

    latents_cached: int
    latents_encoded: int
    captions_cached: int
    captions_encoded: int
    cache_bytes: int


def describe(folder: Path, cache: Path, plan: SetPlan, settings: SetSettings, work: Work) -> str:
    """The report: items, buckets, cache, files that were left out."""
    items = {sample.item.name for sample in plan.samples}
    masks = {sample.item.name for sample in plan.samples if sample.item.mask is not None}
    buckets = plan.rows
    lines = [
        f"Training set {folder}",
        f"{len(items)} images, {sum(map(len, buckets))} rows in {len(buckets)} buckets, {len(masks)} with a loss mask",
        *(f"  {rows[0].bucket}: {len(rows)} rows of {len({row.item.name for row in rows})} images" for rows in buckets),
        f"latents: {work.latents_cached} from the cache, {work.latents_encoded} encoded",
        f"captions: {work.captions_cached} from the cache, {work.captions_encoded} encoded",
        f"cache: {work.cache_bytes / 1e6:.1f} MB in {cache}; delete the folder to free the space",
    ]
    if settings.distinct_variants < settings.variants:
        made, wanted = settings.distinct_variants, settings.variants
        lines.append(f"variants: {made} instead of {wanted}, since more would be alike; turn on crop or colour")
    for title, files in (("left out, too small", plan.small), ("odd files, skipped", plan.odd)):
        if files:
            lines.append(f"{title} ({len(files)}):\n{list_files(files)}")
    return "\n".join(lines)


def list_files(files: Sequence[InvalidFile]) -> str:
    """A line a file, the first ones of many."""
    lines = [f"  {file}" for file in files[:LONGEST_LIST]]
    return "\n".join(lines + ([f"  and {len(files) - LONGEST_LIST} more"] if len(files) > LONGEST_LIST else []))


def contact_sheet(samples: Sequence[Sample], columns: int = 4, tile: int = 192) -> Tensor:
    """Up to ``columns`` squared samples as they were encoded, their sizes below; (1, H, W, 3) in [0, 1]."""
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
        mirrored = " mirrored" if sample.drawn.flip else ""
        ImageDraw.Draw(sheet).text((left + 4, top + tile), f"{sample.bucket}{mirrored}", fill="black")
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255)[None]
