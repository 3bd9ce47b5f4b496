"""Writes reflow pairs to shards, and continues where an earlier writer stopped.

A set is complete when it has the pairs of all indices (see ``plan``). After a cancellation or a crash, the next run
with the same settings generates exactly the missing indices, whether they were never generated or their shard is
damaged. A cancelled run keeps all of its pairs, a killed one those up to the last full shard.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from ..files.atomic import load_tensors, make_folder, save_tensors
from ..files.lock import WriterLock
from ..files.training_state import differences
from ..fingerprints import content_digest
from .manifest import CONDITIONS, LOCK, MANIFEST, PROGRESS, Checksums, Manifest, StoredFile, read_manifest, shard_name
from .plan import ReflowPairPlan

LOGGER = logging.getLogger("diff2flow")
SPARE_BYTES = 64 << 20  # disk space that is kept free


class _OpenShard:
    """The shard that is being filled, in memory: a list of tensors, one per pair, by name."""

    def __init__(self, index: int, columns: Mapping[str, Sequence[Tensor]]) -> None:
        self.index, self.columns = index, {name: list(column) for name, column in columns.items()}

    def __len__(self) -> int:
        return len(self.columns["eps"])


class ReflowPairWriter:
    """Context manager that locks the folder of a set, adds pairs to it and saves them when it exits.

    Args:
        folder: folder of the set.
        plan: settings of the set.
        prompts: texts of the prompts, for display only.
        conditions: conditioning kwargs of each prompt, tensors (1, ...).

    Raises:
        ValueError: on entering, if another writer is active, the folder holds a set with other settings, or the disk
            has not enough free space.
    """

    def __init__(
        self, folder: Path, plan: ReflowPairPlan, prompts: Sequence[str], conditions: Sequence[Mapping[str, Tensor]]
    ) -> None:
        self.folder, self.plan, self.prompts = Path(folder), plan, len(conditions)
        self._conditions = {
            f"{i}.{name}": value for i, kwargs in enumerate(conditions) for name, value in kwargs.items()
        }
        stored = StoredFile(CONDITIONS, "", 0, self.prompts)
        settings = plan.settings(content_digest(self._conditions))
        self._manifest = Manifest(settings, plan.count, tuple(prompts), stored, ())
        self._shards: dict[int, StoredFile] = {}
        self._open: _OpenShard | None = None
        self._exit = ExitStack()

    def __enter__(self) -> "ReflowPairWriter":
        make_folder(self.folder)
        with ExitStack() as stack:
            lock = WriterLock(self.folder / LOCK, f"the pairs in {self.folder} are", "choose another name")
            stack.enter_context(lock)
            self._checksums = Checksums(self.folder)
            self._find_shards(self._read_manifests())
            if self.done < self.plan.count:
                self._check_disk_space()
                self._begin()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._exit:
            try:
                self._flush()
                self._finish()
            except Exception:
                if error is None:
                    raise
                LOGGER.exception("the last pairs could not be saved in %s", self.folder)

    @property
    def done(self) -> int:
        """Number of pairs that exist, including those in memory."""
        return sum(min(self._pairs_in(shard), size) for shard, size in enumerate(self.plan.shard_sizes))

    def missing(self, batch_size: int) -> Iterator[list[int]]:
        """Yield the indices of missing pairs in batches; call ``add`` for each batch before requesting the next."""
        batch: list[int] = []
        for shard, size in enumerate(self.plan.shard_sizes):
            first = shard * self.plan.shard_size
            for index in range(first + self._pairs_in(shard), first + size):
                batch.append(index)
                if len(batch) == batch_size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def prompt_of(self, index: int) -> int:
        """Index of the prompt of a pair."""
        return index % self.prompts

    def add(self, indices: Sequence[int], eps: Tensor, x0: Tensor, waypoints: Tensor | None = None) -> None:
        """Add a batch of pairs; full shards are saved at once.

        Args:
            indices: indices of the pairs.
            eps, x0: noise and latents, (B, C, h, w) in model space.
            waypoints: states between them, (B, windows - 1, C, h, w), if the plan has more than one window.

        Raises:
            ValueError: latents are NaN or infinite.
            OSError: a shard could not be written; names the file.
        """
        given = {"eps": eps, "x0": x0} if waypoints is None else {"eps": eps, "x0": x0, "waypoints": waypoints}
        if not all(bool(torch.isfinite(given[name].to(self.plan.dtype)).all()) for name in self.plan.tensors[1:]):
            raise ValueError(
                f"the teacher's latents of pairs {indices[0]} to {indices[-1]} are NaN or infinite in "
                f"{self.plan.storage}; set precision and storage to fp32, lower cfg, or check the LoRA"
            )
        for row, index in enumerate(indices):
            shard = self._open_shard(index // self.plan.shard_size)
            for name in self.plan.tensors:
                shard.columns[name].append(self._to_storage(given[name][row]))
            if len(shard) == self.plan.shard_size:
                self._flush()

    def _to_storage(self, latent: Tensor) -> Tensor:
        return latent.detach().to("cpu", self.plan.dtype, copy=True)

    def _pairs_in(self, shard: int) -> int:
        """Number of pairs of a shard that exist, including those in memory."""
        if self._open is not None and self._open.index == shard:
            return len(self._open)
        return self._shards[shard].entries if shard in self._shards else 0

    def _open_shard(self, index: int) -> _OpenShard:
        """Load a shard into memory to fill it, and save the one that was open."""
        if self._open is None or self._open.index != index:
            self._flush()
            tensors = load_tensors(self.folder / shard_name(index))[0] if index in self._shards else {}
            self._open = _OpenShard(index, {name: list(tensors.get(name, ())) for name in self.plan.tensors})
        return self._open

    def _flush(self) -> None:
        """Save the open shard, if it has new pairs."""
        shard, self._open = self._open, None
        if shard is None or len(shard) <= self._pairs_in(shard.index):
            return
        name = shard_name(shard.index)
        tensors = {name: torch.stack(column) for name, column in shard.columns.items()}
        metadata = {"set": self._manifest.identity, "content": content_digest(tensors)}
        save_tensors(self.folder / name, tensors, metadata)
        self._shards[shard.index] = self._checksums.of(name)._replace(entries=len(shard))
        self._write_manifest(PROGRESS)

    def _write_manifest(self, name: str) -> None:
        """Write the manifest of the current files."""
        shards = tuple(self._shards[index] for index in sorted(self._shards))
        conditions = self._checksums.of(CONDITIONS)._replace(entries=self.prompts)
        replace(self._manifest, conditions=conditions, shards=shards).write(self.folder / name)
        self._checksums.save()

    def _begin(self) -> None:
        """Save the conditioning kwargs and mark the set as unfinished."""
        save_tensors(self.folder / CONDITIONS, self._conditions, {})
        self._write_manifest(PROGRESS)
        (self.folder / MANIFEST).unlink(missing_ok=True)

    def _finish(self) -> None:
        """Mark the set as finished if all pairs exist."""
        if self.done == self.plan.count:
            self._write_manifest(MANIFEST)
            (self.folder / PROGRESS).unlink(missing_ok=True)

    def _read_manifests(self) -> dict[str, StoredFile]:
        """The shards in the manifests of earlier writers. Raises ValueError for a set with other settings."""
        listed: dict[str, StoredFile] = {}
        for path in (self.folder / PROGRESS, self.folder / MANIFEST):
            if not path.is_file():
                continue
            try:
                found = read_manifest(path)
            except ValueError as error:
                LOGGER.warning("%s; its shards are checked one by one", error)
                continue
            lines = differences(found.settings, self._manifest.settings)
            if lines:
                raise ValueError(
                    f"{self.folder} holds pairs with other settings ({'; '.join(lines)}); choose another name, restore "
                    "the settings, or delete the folder"
                )
            listed |= {shard.file: shard for shard in found.shards}
        return listed

    def _find_shards(self, listed: Mapping[str, StoredFile]) -> None:
        """Find the intact shards in the folder; ``listed`` are those of the manifests."""
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            known = listed.get(path.name)
            full = known is not None and known.entries == self.plan.shard_size
            # One that is not full will be read and rewritten, so it must not have been corrupted.
            stored = self._checksums.of(path.name) if full else self._checksums.fresh(path.name)
            count = known.entries if known and known.sha256 == stored.sha256 else self._count_pairs(path)
            if count and path.stem[6:].isdecimal():
                self._shards[int(path.stem[6:])] = stored._replace(entries=count)

    def _count_pairs(self, path: Path) -> int:
        """Number of pairs in an unlisted shard; 0 if it is damaged. Raises ValueError if it belongs to another set."""
        try:
            tensors, metadata = load_tensors(path)
        except ValueError as error:
            LOGGER.warning("%s; its pairs are generated again", error)
            return 0
        if metadata.get("set") != self._manifest.identity:
            raise ValueError(f"{path} belongs to another set of pairs; move it away, or choose another name")
        if metadata.get("content") != content_digest(tensors):
            LOGGER.warning("%s is damaged; its pairs are generated again", path)
            return 0
        return len(tensors["eps"])

    def _check_disk_space(self) -> None:
        """Raise ValueError if the missing pairs do not fit on the disk."""
        pairs = self.plan.count - self.done + self.plan.shard_size  # a rewritten shard exists twice for a moment
        needed = pairs * self.plan.pair_bytes + sum(value.nbytes for value in self._conditions.values()) + SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ValueError(
                f"{self.plan.count - self.done} pairs need {needed / 2**30:.2f} GiB, but the disk of {self.folder} has "
                f"{free / 2**30:.2f} GiB free; free some space, lower count, or set storage to fp16"
            )
