"""A finished set of reflow pairs on disk, read row by row.

Every file is checked before the first pair is read: size and SHA-256 against the manifest, and no shard too many or too
few. A file that was hashed once is not read again while its time and size stay the same.
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

REMOVE = "remove it, or choose another set"
CACHED_PROMPTS = 256  # whose conditions stay in memory


class ReflowPairs(NamedTuple):
    """Some pairs: noise and latents (B, C, h, w), float32 in model space, and the number of each one's prompt."""

    eps: Tensor
    x0: Tensor
    prompts: list[int]


class ReflowPairSet:
    """A set of pairs.

    Args:
        folder: of the set.

    Raises:
        ValueError: the set is unfinished or not as it was written; names the file and the remedy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._manifest = _manifest(self.folder)
        settings = self._manifest.settings
        self.shape = tuple(int(size) for size in str(settings["shape"]).split("x"))
        self._shard_size = int(settings["shard_size"] or 0)
        self._told: dict[int, list[str]] = {}
        self._cache: dict[int, dict[str, Tensor]] = {}
        _check_files(self.folder, self._manifest)

    def __len__(self) -> int:
        return self._manifest.count

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"<{len(self)} reflow pairs of {shape} under {self._manifest.conditions.items} prompts: {self.name}>"

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that decided what the pairs are; flat."""
        return self._manifest.settings

    @property
    def prompts(self) -> tuple[str, ...]:
        """Texts, for people."""
        return self._manifest.prompts

    @property
    def bytes(self) -> int:
        """On the disk."""
        return sum(stored.bytes for stored in (self._manifest.conditions, *self._manifest.shards))

    @property
    def groups(self) -> list[range]:
        """Indices of the pairs of one shape."""
        return [range(len(self))]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256, of settings and number of pairs."""
        return text_digest(f"{self._manifest.identity} {len(self)}")[:16]

    def read(self, items: Sequence[int]) -> ReflowPairs:
        """Some pairs, in the order of the indices; only their rows are read.

        Raises:
            ValueError: a file is gone or damaged; names it.
        """
        with torch.inference_mode(False):
            eps, x0 = (torch.empty(len(items), *self.shape) for _ in range(2))
        for shard in sorted({item // self._shard_size for item in items}):
            path = self.folder / shard_name(shard)
            with _opened(path) as file:
                for row, item in enumerate(items):
                    if item // self._shard_size == shard:
                        at = item % self._shard_size
                        eps[row] = file.get_slice("eps")[at : at + 1][0]
                        x0[row] = file.get_slice("x0")[at : at + 1][0]
        return ReflowPairs(eps, x0, [self.prompt_of(item) for item in items])

    def prompt_of(self, item: int) -> int:
        """Number of the prompt of a pair."""
        return item % self._manifest.conditions.items

    def conditions(self, prompts: Sequence[int]) -> list[dict[str, Tensor]]:
        """What the network was told for each of some prompts, tensors (1, ...).

        Raises:
            ValueError: the file is gone or damaged; names it.
        """
        missing = {prompt for prompt in prompts if prompt not in self._cache}
        if missing:
            if len(self._cache) + len(missing) > CACHED_PROMPTS:
                self._cache.clear()
                missing = set(prompts)
            with _opened(self.folder / CONDITIONS) as file:
                for prompt in missing:
                    names = self._names(file)[prompt]
                    self._cache[prompt] = {name: file.get_tensor(f"{prompt}.{name}").clone() for name in names}
        return [self._cache[prompt] for prompt in prompts]

    def _names(self, file: Any) -> dict[int, list[str]]:
        """Names of the tensors of each prompt."""
        if not self._told:
            for key in file.keys():  # noqa: SIM118
                prompt, name = key.split(".", 1)
                self._told.setdefault(int(prompt), []).append(name)
        return self._told


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file for reading parts of it, closed afterwards; errors name it."""
    from safetensors import SafetensorError, safe_open

    try:
        with torch.inference_mode(False), safe_open(str(path), "pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} was removed or changed while it was in use ({error}); {REGENERATE}") from error


def _manifest(folder: Path) -> Manifest:
    if (folder / MANIFEST).is_file():
        return read_manifest(folder / MANIFEST)
    if (folder / PROGRESS).is_file():
        found = read_manifest(folder / PROGRESS)
        raise ValueError(
            f"the pairs in {folder} are unfinished, {found.items} of {found.count} are there; {REGENERATE}"
        )
    raise ValueError(f"there are no reflow pairs in {folder}; choose another set, or {REGENERATE}")


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Refuse a folder that is not as the manifest says."""
    listed = {stored.file: stored for stored in (manifest.conditions, *manifest.shards)}
    there = {path.name for path in folder.glob("*.safetensors")}
    for name in sorted(listed.keys() - there):
        raise ValueError(f"{folder / name} is missing; {REGENERATE}")
    for name in sorted(there - listed.keys()):
        raise ValueError(f"{folder / name} is not in the manifest of this set; {REMOVE}")
    checksums = Checksums(folder)
    for name, stored in listed.items():
        found = checksums.of(name)
        if found[:3] != stored[:3]:
            raise ValueError(_fault(folder / name, found, stored, manifest.identity))
    checksums.save()


def _fault(path: Path, found: StoredFile, stored: StoredFile, identity: str) -> str:
    """What is wrong with a file whose bytes are not those of the manifest."""
    try:
        with _opened(path) as file:
            owner = (file.metadata() or {}).get("set", identity)
    except ValueError:
        owner = identity
    if owner != identity:
        return f"{path} is stale: it belongs to another set of pairs; remove it and {REGENERATE}"
    sizes = f"{found.bytes} bytes instead of {stored.bytes}" if found.bytes != stored.bytes else "another SHA-256"
    return f"{path} is damaged: it has {sizes}; {REGENERATE}"
