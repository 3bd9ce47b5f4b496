"""Writes reflow pairs in shards, and goes on where a writer before it stopped.

A set is complete when every index is there (see ``pairs_plan``). So a cancel or a crash neither repeats a pair nor
loses one: the next run of the same settings makes the indices that are missing, be it that they were never made or that
their shard is damaged. A cancel keeps what was made up to it, a kill what was made up to the last full shard.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from ..files.atomic import load_tensors, save_tensors
from ..files.training_state import differences
from ..fingerprints import content_digest
from .lock import WriterLock
from .manifest import CONDITIONS, LOCK, MANIFEST, PROGRESS, Checksums, Manifest, StoredFile, read_manifest, shard_name
from .plan import ReflowPairPlan

LOGGER = logging.getLogger("diff2flow")
SPARE_BYTES = 64 << 20  # of the disk, which are never planned for


class _OpenShard:
    """The shard that is being filled, in memory."""

    def __init__(self, index: int, eps: Sequence[Tensor] = (), x0: Sequence[Tensor] = ()) -> None:
        self.index, self.eps, self.x0 = index, list(eps), list(x0)


class ReflowPairWriter:
    """``with ReflowPairWriter(...) as writer`` has the folder to itself, and leaves it whole.

    Args:
        folder: of the set.
        plan: what it is to be.
        prompts: texts, for people.
        conditions: what the network is told, one a prompt, tensors (1, ...).

    Raises:
        ValueError: on entering; another writer is at work, the folder holds a set of other settings, or the disk has
            no room.
    """

    def __init__(
        self, folder: Path, plan: ReflowPairPlan, prompts: Sequence[str], conditions: Sequence[Mapping[str, Tensor]]
    ) -> None:
        self.folder, self.plan, self.prompts = Path(folder), plan, len(conditions)
        self._told = {f"{i}.{name}": value for i, told in enumerate(conditions) for name, value in told.items()}
        stored = StoredFile(CONDITIONS, "", 0, self.prompts)
        self._manifest = Manifest(plan.settings(content_digest(self._told)), plan.count, tuple(prompts), stored, ())
        self._shards: dict[int, StoredFile] = {}
        self._open: _OpenShard | None = None
        self._exit = ExitStack()

    def __enter__(self) -> "ReflowPairWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(WriterLock(self.folder / LOCK))
            self._checksums = Checksums(self.folder)
            self._find_shards(self._listed())
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
        """Pairs that are there, those in memory included."""
        return sum(min(self._items(index), wanted) for index, wanted in enumerate(self.plan.shard_sizes))

    def missing(self, batch_size: int) -> Iterator[list[int]]:
        """Indices of the pairs to be made, in batches; each is to be added before the next is asked for."""
        batch: list[int] = []
        for index, wanted in enumerate(self.plan.shard_sizes):
            first = index * self.plan.shard_size
            for item in range(first + self._items(index), first + wanted):
                batch.append(item)
                if len(batch) == batch_size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def prompt_of(self, item: int) -> int:
        """Number of the prompt of a pair."""
        return item % self.prompts

    def add(self, items: Sequence[int], eps: Tensor, x0: Tensor) -> None:
        """Keep pairs: noise and latents (B, C, h, w) in model space.

        Raises:
            ValueError: latents that are not finite.
            OSError: the disk is full; names the file.
        """
        if not bool(torch.isfinite(x0.to(self.plan.dtype)).all()):
            raise ValueError(
                f"the teacher's latents of pairs {items[0]} to {items[-1]} are NaN or infinite in {self.plan.storage}; "
                "set precision and storage to fp32, lower cfg, or check the LoRA"
            )
        for row, item in enumerate(items):
            shard = self._shard(item // self.plan.shard_size)
            shard.eps.append(self._stored(eps[row]))
            shard.x0.append(self._stored(x0[row]))
            if len(shard.eps) == self.plan.shard_size:
                self._flush()

    def _stored(self, latent: Tensor) -> Tensor:
        return latent.detach().to("cpu", self.plan.dtype, copy=True)

    def _items(self, index: int) -> int:
        """ReflowPairs of a shard that are there, those in memory included."""
        if self._open is not None and self._open.index == index:
            return len(self._open.eps)
        return self._shards[index].items if index in self._shards else 0

    def _shard(self, index: int) -> _OpenShard:
        """The shard to be filled; the pairs that it has already are read."""
        if self._open is None or self._open.index != index:
            self._flush()
            tensors = load_tensors(self.folder / shard_name(index))[0] if index in self._shards else {}
            self._open = _OpenShard(index, list(tensors.get("eps", ())), list(tensors.get("x0", ())))
        return self._open

    def _flush(self) -> None:
        """The pairs in memory onto the disk."""
        shard, self._open = self._open, None
        if shard is None or len(shard.eps) <= self._items(shard.index):
            return
        name = shard_name(shard.index)
        tensors = {"eps": torch.stack(shard.eps), "x0": torch.stack(shard.x0)}
        facts = {"set": self._manifest.identity, "content": content_digest(tensors)}
        save_tensors(self.folder / name, tensors, facts)
        self._shards[shard.index] = self._checksums.of(name)._replace(items=len(shard.eps))
        self._write(PROGRESS)

    def _write(self, name: str) -> None:
        """Manifest of what is there, whole or not at all."""
        shards = tuple(self._shards[index] for index in sorted(self._shards))
        conditions = self._checksums.of(CONDITIONS)._replace(items=self.prompts)
        kept = self._manifest
        Manifest(kept.settings, kept.count, kept.prompts, conditions, shards).write(self.folder / name)
        self._checksums.save()

    def _begin(self) -> None:
        """From here on the set is an unfinished one."""
        save_tensors(self.folder / CONDITIONS, self._told, {})
        self._write(PROGRESS)
        (self.folder / MANIFEST).unlink(missing_ok=True)

    def _finish(self) -> None:
        """The manifest, if all is there."""
        if self.done == self.plan.count:
            self._write(MANIFEST)
            (self.folder / PROGRESS).unlink(missing_ok=True)

    def _listed(self) -> dict[str, StoredFile]:
        """Shards that a writer before this one has listed. Raises ValueError for a set of other settings."""
        listed: dict[str, StoredFile] = {}
        for path in (self.folder / PROGRESS, self.folder / MANIFEST):
            if not path.is_file():
                continue
            try:
                found = read_manifest(path)
            except ValueError as error:
                LOGGER.warning("%s; its shards are looked at one by one", error)
                continue
            lines = differences(found.settings, self._manifest.settings)
            if lines:
                raise ValueError(
                    f"{self.folder} holds pairs of other settings ({'; '.join(lines)}); choose another name, put the "
                    "settings back, or delete the folder"
                )
            listed |= {shard.file: shard for shard in found.shards}
        return listed

    def _find_shards(self, listed: Mapping[str, StoredFile]) -> None:
        """The shards that are there and whole."""
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            stored = self._checksums.of(path.name)
            known = listed.get(path.name)
            items = known.items if known and known.sha256 == stored.sha256 else self._count_pairs(path)
            if items and path.stem[6:].isdecimal():
                self._shards[int(path.stem[6:])] = stored._replace(items=items)

    def _count_pairs(self, path: Path) -> int:
        """ReflowPairs in a shard that no list knows; 0 if it is damaged. Raises ValueError if it is another set's."""
        try:
            tensors, facts = load_tensors(path)
        except ValueError as error:
            LOGGER.warning("%s; its pairs are made again", error)
            return 0
        if facts.get("set") != self._manifest.identity:
            raise ValueError(f"{path} belongs to another set of pairs; move it away, or choose another name")
        if facts.get("content") != content_digest(tensors):
            LOGGER.warning("%s is damaged; its pairs are made again", path)
            return 0
        return len(tensors["eps"])

    def _check_disk_space(self) -> None:
        """Refuse to start what the disk cannot hold."""
        pairs = self.plan.count - self.done + self.plan.shard_size  # a shard is rewritten beside its old self
        needed = pairs * self.plan.pair_bytes + sum(value.nbytes for value in self._told.values()) + SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ValueError(
                f"{self.plan.count - self.done} pairs need {needed / 2**30:.2f} GiB, but the disk of {self.folder} has "
                f"{free / 2**30:.2f} GiB free; free some space, lower count, or set storage to fp16"
            )
