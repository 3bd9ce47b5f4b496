"""Pairs of pictures as tensors, one a bucket.

Images and targets of colours are resized as training images are; raw values by the nearest one, so that none is mixed
across an edge or with an invalid one. Pairs are read into their place in the tensors, so that nothing is held twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .augment import apply, apply_to_mask
from .buckets import Bucket, Placement
from .folder import InvalidFile
from .images import InvalidImageError, read_image
from .raw_targets import read_raw
from .set_report import list_files
from .target_pairs import RawValues, Row, blaming
from .training_set import resized


@dataclass
class TargetPairTensors:
    """Pairs in tensors, an entry a bucket.

    Attributes:
        buckets: sizes.
        names: of the rows.
        images: (B, H, W, 3) in [0, 1].
        targets: (B, H, W, 3): colours in [0, 1], or raw values in three equal channels that share their memory.
        valid: (B, H, W), 1 where the target is known, else 0.
        odd: files that were left out.
    """

    buckets: list[Bucket] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    valid: list[Tensor] = field(default_factory=list)
    odd: list[InvalidFile] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """What the tensors take in memory."""
        return sum(part.untyped_storage().nbytes() for part in (*self.images, *self.targets, *self.valid))


def read_target_pairs(
    planned: Sequence[Sequence[Row]], raw: RawValues | None, odd: list[InvalidFile]
) -> Iterator[TargetPairTensors]:
    """Read all rows; yields the set so far after each of them, the last one is the whole.

    Args:
        raw: how to read raw targets; None for targets of colours.
        odd: what is known to be left out; files that cannot be read and targets without a valid value are added.
    """
    found = TargetPairTensors(odd=odd)
    for rows in planned:
        names, tensors = list[str](), _Tensors(rows, raw=raw is not None)
        for row in rows:
            try:
                tensors.put(len(names), *_read(row, raw))
                names.append(row.name)
            except InvalidImageError as error:
                odd.append(InvalidFile(row.name, str(error)))
            yield found
        if names:
            tensors.finish(found, rows[0].bucket, names)
    yield found


def describe_target_pairs(found: TargetPairTensors, images: Path, targets: Path) -> str:
    """The report: rows, buckets, memory, how much of the targets is known, files that were left out."""
    count = sum(map(len, found.names))
    known = sum(float(part.mean()) * len(part) for part in found.valid) / count
    lines = [
        f"{count} pairs of {images} and {targets} in {len(found.buckets)} buckets",
        *(f"  {bucket}: {len(names)} pairs" for bucket, names in zip(found.buckets, found.names)),
        f"{known:.1%} of the targets' pixels are valid",
        f"held in memory: {found.nbytes / 1e6:.1f} MB ({found.nbytes} bytes)",
    ]
    if found.odd:
        lines.append(f"left out ({len(found.odd)}):\n{list_files(found.odd)}")
    return "\n".join(lines)


class _Tensors:
    """The tensors of a bucket while they are filled."""

    def __init__(self, rows: Sequence[Row], raw: bool) -> None:
        height, width = rows[0].bucket.height, rows[0].bucket.width
        self.images = torch.empty(len(rows), height, width, 3)
        self.targets = torch.empty(len(rows), height, width, 1 if raw else 3)
        self.valid = torch.empty(len(rows), height, width)

    def put(self, row: int, image: Tensor, target: Tensor, valid: Tensor) -> None:
        """A row: (3, H, W), (1 or 3, H, W), (1, H, W)."""
        self.images[row] = image.movedim(0, -1)
        self.targets[row] = target.movedim(0, -1)
        self.valid[row] = valid[0]

    def finish(self, found: TargetPairTensors, bucket: Bucket, names: list[str]) -> None:
        """The first rows as an entry of a set; memory of rows that were left out is given back."""
        whole = len(names) == len(self.images)
        images, targets, valid = (
            part if whole else part[: len(names)].clone() for part in (self.images, self.targets, self.valid)
        )
        found.buckets.append(bucket)
        found.names.append(names)
        found.images.append(images)
        found.targets.append(targets.expand(-1, -1, -1, 3))
        found.valid.append(valid)


def _read(row: Row, raw: RawValues | None) -> tuple[Tensor, Tensor, Tensor]:
    """Image (3, H, W), target (3 or 1, H, W) and valid (1, H, W) of a row. Raises InvalidImageError."""
    image = _colors(row, row.pair.image)
    if raw is None:
        return image, _colors(row, row.pair.target), torch.ones(1, *image.shape[1:])
    with blaming(row.pair.target):
        stored = _nearest(read_raw(row.pair.target), row.placement)
    stored = apply_to_mask(stored, row.drawn, row.placement, row.bucket)
    valid = torch.isfinite(stored) & (stored != raw.invalid)
    if not bool(valid.any()):
        raise InvalidImageError(
            f"the target has no value other than {raw.invalid:g}, which marks what was not measured"
        )
    return image, torch.where(torch.isfinite(stored), stored, 0) * raw.scale, valid.float()


def _colors(row: Row, path: Path) -> Tensor:
    with blaming(path):
        image = read_image(path)
    return apply(resized(image, row.placement, "LANCZOS"), row.drawn, row.placement, row.bucket)


def _nearest(values: Any, placement: Placement) -> Tensor:
    """Values (H, W) in the size of a placement, each that of the nearest pixel; (1, height, width)."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(values).resize((placement.width, placement.height), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(image))[None]
