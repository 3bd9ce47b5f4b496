"""What the buckets cut off the images: the part of the area that lies outside of the crop."""

from collections.abc import Sequence

from ..samples import Sample

MUCH = 0.25
"""A larger part of an image than this is worth a note."""


def cut_in_words(rows: Sequence[Sample]) -> str:
    """Mean and largest part that is cut off the images of a bucket, with the name; "" if it is less than 0.05 %."""
    worst = max(rows, key=lambda row: row.cut)
    if worst.cut < 0.0005:
        return ""
    mean = sum(row.cut for row in rows) / len(rows)
    return f", {mean:.1%} cut off on average, at most {worst.cut:.1%} ({worst.image.name})"


def cut_notes(samples: Sequence[Sample]) -> list[str]:
    """A sentence about images that lose more than a quarter of their area; none if there are no such images."""
    lost: dict[str, float] = {}
    for sample in samples:
        lost[sample.image.name] = min(sample.cut, lost.get(sample.image.name, 1.0))
    much = {name: cut for name, cut in lost.items() if cut > MUCH}
    if not much:
        return []
    worst = max(much, key=lambda name: much[name])
    return [
        f"images that lose more than {MUCH:.0%} of their area ({len(much)}), most of all {worst} ({much[worst]:.0%}): "
        "look at the contact sheet, and set 'fit' to pad, or cut such images into parts yourself"
    ]


def transparency_note(samples: Sequence[Sample]) -> list[str]:
    """A sentence about transparent images that are laid on white; none if there are no such images."""
    laid = sorted({sample.image.name for sample in samples if sample.transparent and not sample.image.alpha})
    if not laid:
        return []
    return [
        f"images with an alpha channel, which are laid on white ({len(laid)}), such as {laid[0]}: set 'transparency' "
        "to mask to leave their transparent parts out of training"
    ]
