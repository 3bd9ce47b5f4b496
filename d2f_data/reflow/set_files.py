"""Whether the files of a set of reflow pairs are those of its manifest, and the errors that say so."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .manifest import MANIFEST, PROGRESS, REGENERATE, Checksums, Manifest, StoredFile, read_manifest, shard_name


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file of which parts are read; errors become ValueErrors that name the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with torch.inference_mode(False), safe_open(str(path), "pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise ValueError(changed(path, error)) from error


def kept_open(path: Path) -> Any:
    """A safetensors file that stays open until it is let go of. Raises ValueError that names it."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(path), "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(changed(path, error)) from error


def changed(path: Path, error: Exception | str) -> str:
    """The error for a file that is not what it was when the set was opened."""
    return f"{path} was removed or changed while it was in use ({error}); {REGENERATE}"


def finished_manifest(folder: Path) -> Manifest:
    """The manifest of a finished set. Raises ValueError if the set is unfinished or does not exist."""
    if (folder / MANIFEST).is_file():
        return read_manifest(folder / MANIFEST)
    if (folder / PROGRESS).is_file():
        found = read_manifest(folder / PROGRESS)
        raise ValueError(
            f"the set of pairs {folder} is unfinished, {found.stored_pairs} of {found.count} exist; {REGENERATE}"
        )
    raise ValueError(f"there are no reflow pairs in {folder}; choose another set, or {REGENERATE}")


def _check_counts(folder: Path, manifest: Manifest) -> None:
    """Raise ValueError if the shards of a manifest do not hold the pairs that it promises."""
    size, entries = int(manifest.settings["shard_size"] or 0), {shard.file: shard.entries for shard in manifest.shards}
    full, rest = divmod(manifest.count, size)
    if manifest.stored_pairs < manifest.count or any(
        entries.get(shard_name(index), 0) < (size if index < full else rest) for index in range(full + (rest > 0))
    ):
        raise ValueError(f"{folder / MANIFEST} is damaged: its shards do not hold {manifest.count} pairs; {REGENERATE}")


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise ValueError if the files are not exactly those of the manifest."""
    _check_counts(folder, manifest)
    listed = {stored.file: stored for stored in (manifest.conditions, *manifest.shards)}
    existing = {path.name for path in folder.glob("*.safetensors")}
    for name in sorted(listed.keys() - existing):
        raise ValueError(f"{folder / name} is missing; {REGENERATE}")
    for name in sorted(existing - listed.keys()):
        raise ValueError(f"{folder / name} is not in the manifest of this set; remove it, or choose another set")
    checksums = Checksums(folder)
    for name, stored in listed.items():
        found = checksums.of(name)
        if found[:3] != stored[:3]:
            raise ValueError(fault(folder / name, found, stored, manifest.identity))
    checksums.save()


def fault(path: Path, found: StoredFile, stored: StoredFile, identity: str) -> str:
    """The error for a file whose checksum is not that of the manifest."""
    try:
        with open_tensors(path) as file:
            owner = (file.metadata() or {}).get("set", identity)
    except ValueError:
        owner = identity
    if owner != identity:
        return f"{path} is stale: it belongs to another set of pairs; remove it and {REGENERATE}"
    difference = f"{found.bytes} bytes instead of {stored.bytes}" if found.bytes != stored.bytes else "another SHA-256"
    return f"{path} is damaged: it has {difference}; {REGENERATE}"
