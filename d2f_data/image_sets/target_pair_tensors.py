"""Reads image-target pairs as tensors, one per bucket.

Images and colour targets are resized like training images. Raw values are resized with nearest-neighbour interpolation,
so that they are never blended across an edge or with invalid values. Each pair is read straight into the tensor of its
bucket, so that memory holds it once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .augment import augment_image, augment_mask
from .buckets import Bucket, Placement
from .folder import InvalidFile
from .images import InvalidImageError, read_image
from .pixels.resizing import resize_to_tensor
from .raw_targets import read_raw
from .set_report import list_files
from .target_pairs import RawValues, Row, errors_name


@dataclass
class TargetPairTensors:
    """Image-target pairs as tensors; all lists but the last have one entry per bucket.

    Attributes:
        buckets: sizes in pixels.
        names: names of the rows.
        images: (B, H, W, 3) in [0, 1].
        targets: (B, H, W, 3), colours in [0, 1], or raw values in three equal channels that share memory.
        valid: (B, H, W), 1 where the target is valid, else 0.
        invalid: files that are left out.
    """

    buckets: list[Bucket] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    valid: list[Tensor] = field(default_factory=list)
    invalid: list[InvalidFile] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Size of the tensors in memory."""
        return sum(part.untyped_storage().nbytes() for part in (*self.images, *self.targets, *self.valid))


def read_target_pairs(
    planned: Sequence[Sequence[Row]], raw: RawValues | None, invalid: list[InvalidFile]
) -> Iterator[TargetPairTensors]:
    """Read all rows.

    Args:
        planned: one list of rows per bucket.
        raw: how to read raw targets; None for colour targets.
        invalid: files that are left out so far; unreadable files and targets without a valid value are appended.

    Yields:
        The tensors so far, after each row; the last ones are complete.
    """
    found = TargetPairTensors(invalid=invalid)
    for rows in planned:
        names, tensors = list[str](), _Tensors(rows, raw=raw is not None)
        for row in rows:
            try:
                tensors.put(len(names), *_read(row, raw))
                names.append(row.name)
            except InvalidImageError as error:
                invalid.append(InvalidFile(row.name, str(error)))
            yield found
        if names:
            tensors.finish(found, rows[0].bucket, names)
    yield found


def describe_target_pairs(found: TargetPairTensors, images: Path, targets: Path) -> str:
    """The report: pairs per bucket, share of valid pixels, memory, and the files that are left out."""
    count = sum(map(len, found.names))
    valid = sum(float(part.mean()) * len(part) for part in found.valid) / count
    lines = [
        f"{count} pairs of {images} and {targets} in {len(found.buckets)} buckets",
        *(f"  {bucket}: {len(names)} pairs" for bucket, names in zip(found.buckets, found.names)),
        f"{valid:.1%} of the targets' pixels are valid",
        f"held in memory: {found.nbytes / 1e6:.1f} MB ({found.nbytes} bytes)",
    ]
    if found.invalid:
        lines.append(f"left out ({len(found.invalid)}):\n{list_files(found.invalid)}")
    return "\n".join(lines)


class _Tensors:
    """The tensors of one bucket while its pairs are being read."""

    def __init__(self, rows: Sequence[Row], raw: bool) -> None:
        height, width = rows[0].bucket.height, rows[0].bucket.width
        self.images = torch.empty(len(rows), height, width, 3)
        self.targets = torch.empty(len(rows), height, width, 1 if raw else 3)
        self.valid = torch.empty(len(rows), height, width)

    def put(self, row: int, image: Tensor, target: Tensor, valid: Tensor) -> None:
        """Set a row: image (3, H, W), target (1 or 3, H, W), valid (1, H, W)."""
        self.images[row] = image.movedim(0, -1)
        self.targets[row] = target.movedim(0, -1)
        self.valid[row] = valid[0]

    def finish(self, found: TargetPairTensors, bucket: Bucket, names: list[str]) -> None:
        """Append the rows that were read to ``found``; if any were left out, copy the others to free the memory."""
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
    with errors_name(row.pair.target):
        stored = _nearest(read_raw(row.pair.target), row.placement)
    stored = augment_mask(stored, row.params, row.placement, row.bucket)
    valid = torch.isfinite(stored) & (stored != raw.invalid)
    if not bool(valid.any()):
        raise InvalidImageError(
            f"the target has no value other than {raw.invalid:g}, which marks invalid pixels; check 'invalid_value'"
        )
    return image, torch.where(torch.isfinite(stored), stored, 0) * raw.scale, valid.float()


def _colors(row: Row, path: Path) -> Tensor:
    with errors_name(path):
        image = read_image(path)
    return augment_image(resize_to_tensor(image, row.placement, "LANCZOS"), row.params, row.placement, row.bucket)


def _nearest(values: Any, placement: Placement) -> Tensor:
    """Values (H, W) resized to a placement with nearest-neighbour interpolation, (1, height, width)."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(values).resize((placement.width, placement.height), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(image))[None]
