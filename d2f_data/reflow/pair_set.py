"""Reads a finished set of reflow pairs from disk, row by row.

All files are checked when a set is opened: size and SHA-256 must match the manifest, and no shard may be missing or
unlisted. This is quick, as a file whose modification time and size are known is not hashed again. That misses
corruption on the disk, so every file is hashed once more before the first pair is read from it: a pass over the set at
about 1 GB per second, spread over the first epoch of a training, instead of a wait before it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..fingerprints import text_digest
from .manifest import (
    CONDITIONS,
    MANIFEST,
    PROGRESS,
    REGENERATE,
    Checksums,
    Manifest,
    StoredFile,
    read_manifest,
    shard_name,
)

CACHED_PROMPTS = 256  # number of prompts whose conditioning kwargs are kept in memory


class ReflowPairs(NamedTuple):
    """A batch of pairs: noise and latents (B, C, h, w), float32 in model space, and the index of each pair's prompt."""

    eps: Tensor
    x0: Tensor
    prompts: list[int]


class ReflowPairSet:
    """A finished set of reflow pairs.

    Args:
        folder: folder of the set.

    Raises:
        ValueError: the set is unfinished, incomplete or damaged; names the file and the remedy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._manifest = _finished_manifest(self.folder)
        settings = self._manifest.settings
        self.shape = tuple(int(size) for size in str(settings["shape"]).split("x"))
        self._shard_size = int(settings["shard_size"] or 0)
        self._tensor_names: dict[int, list[str]] = {}
        self._cache: dict[int, dict[str, Tensor]] = {}
        self._unverified = {stored.file: stored for stored in (self._manifest.conditions, *self._manifest.shards)}
        _check_files(self.folder, self._manifest)

    def __len__(self) -> int:
        return self._manifest.count

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"<{len(self)} reflow pairs of {shape} under {self._manifest.conditions.entries} prompts: {self.name}>"

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that determines the pairs, as a flat mapping."""
        return self._manifest.settings

    @property
    def prompts(self) -> tuple[str, ...]:
        """Texts of the prompts, for display only."""
        return self._manifest.prompts

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(stored.bytes for stored in (self._manifest.conditions, *self._manifest.shards))

    @property
    def groups(self) -> list[range]:
        """Indices of pairs with latents of equal shape: a set has one shape."""
        return [range(len(self))]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the settings and the number of pairs, 16 hex digits."""
        return text_digest(f"{self._manifest.identity} {len(self)}")[:16]

    def read(self, indices: Sequence[int]) -> ReflowPairs:
        """Read pairs in the order of ``indices``; only their rows of the shards are read.

        Raises:
            ValueError: a file was removed or damaged; names it.
        """
        with torch.inference_mode(False):
            eps, x0 = (torch.empty(len(indices), *self.shape) for _ in range(2))
        for shard in sorted({index // self._shard_size for index in indices}):
            with self._open(shard_name(shard)) as file:
                for row, index in enumerate(indices):
                    if index // self._shard_size == shard:
                        at = index % self._shard_size
                        eps[row] = file.get_slice("eps")[at : at + 1][0]
                        x0[row] = file.get_slice("x0")[at : at + 1][0]
        return ReflowPairs(eps, x0, [self.prompt_of(index) for index in indices])

    def prompt_of(self, index: int) -> int:
        """Index of the prompt of a pair."""
        return index % self._manifest.conditions.entries

    def conditions(self, prompts: Sequence[int]) -> list[dict[str, Tensor]]:
        """Conditioning kwargs of prompts, given by index: tensors (1, ...) by name.

        Raises:
            ValueError: the file was removed or damaged; names it.
        """
        missing = {prompt for prompt in prompts if prompt not in self._cache}
        if missing:
            if len(self._cache) + len(missing) > CACHED_PROMPTS:
                self._cache.clear()
                missing = set(prompts)
            with self._open(CONDITIONS) as file:
                for prompt in missing:
                    names = self._names(file)[prompt]
                    self._cache[prompt] = {name: file.get_tensor(f"{prompt}.{name}").clone() for name in names}
        return [self._cache[prompt] for prompt in prompts]

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        """A file of the set, hashed if nothing has been read from it yet. Raises ValueError if it is damaged."""
        if name in self._unverified:
            self._verify(name)
        with _open_tensors(self.folder / name) as file:
            yield file

    def _verify(self, name: str) -> None:
        checksums, stored, path = Checksums(self.folder), self._unverified[name], self.folder / name
        try:
            found = checksums.fresh(name)
        except OSError as error:
            raise ValueError(_changed(path, error)) from error
        if found[:3] != stored[:3]:
            checksums.forget(name)
            raise ValueError(_fault(path, found, stored, self._manifest.identity))
        with _open_tensors(path) as file:
            owner = (file.metadata() or {}).get("set")
        if name != CONDITIONS and owner != self._manifest.identity:
            raise ValueError(
                f"{self.folder / MANIFEST} was changed: its settings are not those of {name}; {REGENERATE}"
            )
        del self._unverified[name]

    def _names(self, file: Any) -> dict[int, list[str]]:
        """Names of the conditioning kwargs of each prompt."""
        if not self._tensor_names:
            for key in file.keys():  # noqa: SIM118
                prompt, name = key.split(".", 1)
                self._tensor_names.setdefault(int(prompt), []).append(name)
        return self._tensor_names


@contextmanager
def _open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file of which parts are read; errors become ValueErrors that name the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with torch.inference_mode(False), safe_open(str(path), "pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise ValueError(_changed(path, error)) from error


def _changed(path: Path, error: Exception) -> str:
    return f"{path} was removed or changed while it was in use ({error}); {REGENERATE}"


def _finished_manifest(folder: Path) -> Manifest:
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


def _check_files(folder: Path, manifest: Manifest) -> None:
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
            raise ValueError(_fault(folder / name, found, stored, manifest.identity))
    checksums.save()


def _fault(path: Path, found: StoredFile, stored: StoredFile, identity: str) -> str:
    """The error for a file whose checksum is not that of the manifest."""
    try:
        with _open_tensors(path) as file:
            owner = (file.metadata() or {}).get("set", identity)
    except ValueError:
        owner = identity
    if owner != identity:
        return f"{path} is stale: it belongs to another set of pairs; remove it and {REGENERATE}"
    difference = f"{found.bytes} bytes instead of {stored.bytes}" if found.bytes != stored.bytes else "another SHA-256"
    return f"{path} is damaged: it has {difference}; {REGENERATE}"
