"""The contact sheet of a training set: images as the VAE gets them, with their masks and captions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...plots.labels import drawable, fitting
from ..pixels.store import PixelStore
from ..samples import Sample
from ..training_set import read_mask_pixels, read_pixels

LABEL = 16  # pixels of the line with the bucket
CAPTION_LINES = 2


def contact_sheet(
    samples: Sequence[Sample], columns: int = 4, tile: int = 192, store: PixelStore | None = None
) -> Tensor:
    """An IMAGE (1, H, W, 3) in [0, 1] of up to ``columns``^2 samples as the VAE gets them.

    Below each stand its bucket and its caption; what a loss mask leaves out is dimmed and tinted red.

    Args:
        samples: samples to choose from, at equal distances.
        columns: number of columns, and largest number of rows.
        tile: side of a tile, in pixels.
        store: may hold their pixels.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    count = min(len(samples), columns * columns)
    shown = [samples[index * len(samples) // count] for index in range(count)]
    height = tile + LABEL * (1 + CAPTION_LINES)
    sheet = Image.new("RGB", (min(columns, count) * tile, -(-count // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, sample in enumerate(shown):
        image = _picture(sample, store)
        image.thumbnail((tile - 4, tile - 4), Image.Resampling.LANCZOS)
        left, top = index % columns * tile, index // columns * height
        sheet.paste(image, (left + (tile - image.width) // 2, top + (tile - image.height) // 2))
        for number, line in enumerate(_words(pen, sample, tile - 8)):
            pen.text(
                (left + 4, top + tile + number * LABEL), drawable(line), fill="black" if number == 0 else "#444444"
            )
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255)[None]


def _picture(sample: Sample, store: PixelStore | None) -> Any:
    """The pixels of a sample as a Pillow image, what its mask leaves out dimmed and tinted."""
    from PIL import Image

    pixels = read_pixels(sample, store)
    if sample.masked:
        kept = read_mask_pixels(sample).float() / 255
        red = torch.tensor([1.0, 0.1, 0.1])[:, None, None]
        pixels = kept * pixels + (1 - kept) * (0.35 * pixels + 0.35 * red)
    return Image.fromarray((pixels.clamp(0, 1).movedim(0, -1) * 255).round().to(torch.uint8).numpy())


def _words(pen: Any, sample: Sample, width: int) -> list[str]:
    """The bucket, and the first lines of the caption."""
    mirrored = " mirrored" if sample.params.flip else ""
    several = f", {len(sample.image.captions)} captions" if sample.image.others else ""
    lines = [f"{sample.bucket}{mirrored}{' masked' if sample.image.masked else ''}{several}"]
    rest = sample.image.caption
    for number in range(CAPTION_LINES):
        line = fitting(pen, rest, width)
        rest = rest[len(line) :].lstrip()
        cut = number == CAPTION_LINES - 1 and rest
        lines.append(f"{line[:-3]}..." if cut else line)
    return lines
