"""Report of a training set: images, captions, buckets and what they cut off, cache, and the files that are left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .folder import FolderContents
from .images import InvalidFile
from .report.captions import describe_captions, describe_regularisation
from .report.cuts import cut_in_words
from .report.sheet import contact_sheet
from .samples import SetPlan, SetSettings

__all__ = ["EncodingStats", "InvalidFilesError", "contact_sheet", "describe", "list_files"]
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


def describe(
    folder: Path,
    cache: Path,
    plan: SetPlan,
    settings: SetSettings,
    stats: EncodingStats,
    contents: FolderContents | None = None,
    prompt_weights: bool = False,
    notes: Sequence[str] = (),
) -> str:
    """The report of a training set.

    Args:
        folder: the training folder.
        cache: folder of the cache.
        plan, settings, stats: what was encoded, and how.
        contents: what was in the folder, for the captions.
        prompt_weights: whether captions are read as prompts.
        notes: sentences that come first.
    """
    images = {sample.image.name for sample in plan.samples}
    masks = {sample.image.name for sample in plan.samples if sample.image.masked}
    buckets = plan.rows
    lines = [
        f"Training set {folder}",
        *(f"note: {note}" for note in notes),
        f"{len(images)} images, {sum(map(len, buckets))} rows in {len(buckets)} buckets, {len(masks)} with a loss mask",
        *(
            f"  {rows[0].bucket}: {len(rows)} rows of {len({row.image.name for row in rows})} images"
            f"{cut_in_words(rows)}"
            for rows in buckets
        ),
        *describe_regularisation(plan.samples),
        *(describe_captions(plan.samples, contents, prompt_weights) if contents else ()),
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
