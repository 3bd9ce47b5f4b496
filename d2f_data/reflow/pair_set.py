"""Reads a finished set of reflow pairs from disk, row by row.

All files are checked when a set is opened: size and SHA-256 must match the manifest, and no shard may be missing or
unlisted. This is quick, as a file whose modification time and size are known is not hashed again. That misses
corruption on the disk, so every file is hashed once more before the first pair is read from it: a pass over the set at
about 1 GB per second, spread over the first epoch of a training, instead of a wait before it.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import coarser
from ..fingerprints import text_digest
from .manifest import CONDITIONS, MANIFEST, REGENERATE, Checksums, shard_name
from .set_files import changed, check_files, fault, finished_manifest, kept_open, open_tensors

CACHED_PROMPTS = 256  # number of prompts whose conditioning kwargs are kept in memory


class ReflowPairs(NamedTuple):
    """A batch of pairs: noise and latents (B, C, h, w), float32 in model space, the index of each pair's prompt, and in
    a set of several windows the states between them, (B, windows - 1, C, h, w)."""

    eps: Tensor
    x0: Tensor
    prompts: list[int]
    waypoints: Tensor | None = None


class ReflowPairSet:
    """A finished set of reflow pairs.

    Args:
        folder: folder of the set.

    Attributes:
        windows: number of windows in which its paths are read.

    Raises:
        ValueError: the set is unfinished, incomplete or damaged; names the file and the remedy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._manifest = finished_manifest(self.folder)
        settings = self._manifest.settings
        self.shape = tuple(int(size) for size in str(settings["shape"]).split("x"))
        self._shard_size = int(settings["shard_size"] or 0)
        self.windows = self.stored_windows
        self._tensor_names: dict[int, list[str]] = {}
        self._cache: dict[int, dict[str, Tensor]] = {}
        self._conditions: tuple[tuple[int, int], Any] | None = None  # state of their file, and the open file
        self._unverified = {stored.file: stored for stored in (self._manifest.conditions, *self._manifest.shards)}
        check_files(self.folder, self._manifest)

    def __len__(self) -> int:
        return self._manifest.count

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        windows = f" in {self.windows} windows" if self.windows > 1 else ""
        prompts = self._manifest.conditions.entries
        return f"<{len(self)} reflow pairs of {shape}{windows} under {prompts} prompts: {self.name}>"

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that determines the pairs, as a flat mapping."""
        return self._manifest.settings

    @property
    def stored_windows(self) -> int:
        """Number of windows that the set was generated with."""
        return int(self.settings.get("windows") or 1)

    def in_windows(self, windows: int) -> "ReflowPairSet":
        """The same set, read in fewer windows. Raises ValueError if it has not the states for it."""
        if self.stored_windows % windows:
            allowed = [str(n) for n in range(1, self.stored_windows + 1) if self.stored_windows % n == 0]
            raise ValueError(
                f"the set of pairs {self.name} was generated with {self.stored_windows} windows and cannot be read in "
                f"{windows}; choose {' or '.join(allowed)}, or generate pairs with windows {windows}"
            )
        found = copy.copy(self)
        found.__dict__.pop("fingerprint", None)
        found.windows = windows
        return found

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
        """Hash of the settings, the number of pairs and the windows in which they are read, 16 hex digits."""
        read = "" if self.windows == self.stored_windows else f" in {self.windows} windows"
        return text_digest(f"{self._manifest.identity} {len(self)}{read}")[:16]

    def read(self, indices: Sequence[int]) -> ReflowPairs:
        """Read pairs in the order of ``indices``; only their rows of the shards are read.

        Raises:
            ValueError: a file was removed or damaged; names it.
        """
        shapes = {"eps": self.shape, "x0": self.shape}
        if self.windows > 1:
            shapes["waypoints"] = (self.stored_windows - 1, *self.shape)
        with torch.inference_mode(False):
            found = {name: torch.empty(len(indices), *shape) for name, shape in shapes.items()}
        for shard in sorted({index // self._shard_size for index in indices}):
            with self._open(shard_name(shard)) as file:
                for row, index in enumerate(indices):
                    if index // self._shard_size == shard:
                        at = index % self._shard_size
                        for name, tensor in found.items():
                            tensor[row] = file.get_slice(name)[at : at + 1][0]
        waypoints = coarser(found["waypoints"], self.windows) if self.windows > 1 else None
        return ReflowPairs(found["eps"], found["x0"], [self.prompt_of(index) for index in indices], waypoints)

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
            self._read_conditions(missing)
        return [self._cache[prompt] for prompt in prompts]

    def _read_conditions(self, prompts: Iterable[int]) -> None:
        """Read prompts into the cache. The file stays open: opening it reads the names of all its prompts."""
        path = self.folder / CONDITIONS
        try:
            state = path.stat()
            found = (state.st_mtime_ns, state.st_size)
        except OSError as error:
            raise ValueError(changed(path, error)) from error
        if self._conditions is None:
            with self._open(CONDITIONS):
                pass
            self._conditions = (found, kept_open(path))
        if self._conditions[0] != found:
            raise ValueError(changed(path, "it has another size or date"))
        with torch.inference_mode(False):
            for prompt in prompts:
                file, names = self._conditions[1], self._names(self._conditions[1])[prompt]
                self._cache[prompt] = {name: file.get_tensor(f"{prompt}.{name}").clone() for name in names}

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        """A file of the set, hashed if nothing has been read from it yet. Raises ValueError if it is damaged."""
        if name in self._unverified:
            self._verify(name)
        with open_tensors(self.folder / name) as file:
            yield file

    def _verify(self, name: str) -> None:
        checksums, stored, path = Checksums(self.folder), self._unverified[name], self.folder / name
        try:
            found = checksums.fresh(name)
        except OSError as error:
            raise ValueError(changed(path, error)) from error
        if found[:3] != stored[:3]:
            checksums.forget(name)
            raise ValueError(fault(path, found, stored, self._manifest.identity))
        with open_tensors(path) as file:
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
