"""The files of a set of reflow pairs, its manifest, and their checksums.

    manifest.json            settings, prompts, and name, SHA-256 and size of all other files; written last, when all
                             pairs exist
    progress.json            the same for a set that is not finished
    shard-00000.safetensors  "eps" and "x0" (n, C, h, w) of the pairs 0 to n - 1, and so on; in sets of several windows
                             "waypoints" (n, windows - 1, C, h, w), the states between them
    conditions.safetensors   conditioning kwargs of each prompt, as "<prompt index>.<name>"
    checked.json             cached SHA-256 of the files, with their modification time and size
    writer.lock              see ``files.lock``

Noise and latents are stored in model space, that is, in the scale that the network works in.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..files.atomic import atomic_write
from ..files.json_schema import (
    fail,
    list_of,
    number,
    read_json,
    record,
    row,
    scalar,
    text,
    whole,
)
from ..fingerprints import file_digest, json_digest

FORMAT = 1
MANIFEST, PROGRESS, CONDITIONS = "manifest.json", "progress.json", "conditions.safetensors"
CHECKED, LOCK = "checked.json", "writer.lock"
REGENERATE = "run Generate Reflow Pairs again with the same name and settings, which generates the missing pairs"

Settings = Mapping[str, str | int | float | bool | None]


class StoredFile(NamedTuple):
    """A file of a set: its name, SHA-256, size in bytes, and the number of pairs or prompts in it."""

    file: str
    sha256: str
    bytes: int
    entries: int


@dataclass(frozen=True)
class Manifest:
    """The manifest of a set of pairs, finished or not.

    Attributes:
        settings: everything that determines pair i, as a flat mapping.
        count: requested number of pairs.
        prompts: texts of the prompts, for display only.
        conditions: file with the conditioning kwargs of all prompts.
        shards: files of the pairs, in order.
    """

    settings: Settings
    count: int
    prompts: tuple[str, ...]
    conditions: StoredFile
    shards: tuple[StoredFile, ...]

    @property
    def identity(self) -> str:
        """Hash of the settings, which is also in the metadata of every shard."""
        return json_digest(dict(self.settings))

    @property
    def stored_pairs(self) -> int:
        """Number of pairs in the shards."""
        return sum(shard.entries for shard in self.shards)

    def write(self, path: Path) -> None:
        """Write the manifest as JSON, atomically."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        _save_text(path, text)


def _matches(pattern: str, wanted: str) -> Any:
    """Rule of a text of a certain form."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            fail(value, where, wanted)

    return check


_SETTINGS = record(
    {"shape": _matches(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*", "sizes like '4x64x64'"), "shard_size": whole(1)},
    {
        "storage": text(("fp16", "fp32")),
        "seed": whole(0, 2**64 - 1),
        "steps": whole(1),
        "cfg": number(),
        "windows": whole(2),
    },
    rest=scalar,
)
_SHARD = row(_matches(r"shard-\d{5,}\.safetensors", "the name of a shard"), text(), whole(0), whole(0))
_RULE = record(
    {
        "settings": _SETTINGS,
        "count": whole(1),
        "prompts": list_of(text()),
        "conditions": row(text((CONDITIONS,)), text(), whole(0), whole(1)),
        "shards": list_of(_SHARD),
    }
)

_CHECKED_RULE = record({}, rest=row(whole(-(2**63)), whole(0), text()))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ValueError: the file is truncated, damaged or from a newer version; names it.
    """
    version = read_json(path, record({"format": whole(1)}), REGENERATE)["format"]
    if version > FORMAT:
        raise ValueError(f"{path} has format {version}, but this version reads up to {FORMAT}; update Diff2Flow Kit")
    values = read_json(path, _RULE, REGENERATE)
    shards = tuple(StoredFile(*shard) for shard in values["shards"])
    stored = StoredFile(*values["conditions"])
    return Manifest(values["settings"], values["count"], tuple(values["prompts"]), stored, shards)


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"shard-{index:05}.safetensors"


class Checksums:
    """SHA-256 of the files of a set, cached until the modification time or size of a file changes.

    The cache makes opening a large set quick, but cannot see corruption on the disk: whoever relies on a file hashes
    it with ``fresh``, once per session, and drops a wrong entry with ``forget``.

    Args:
        folder: folder of the set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._known: dict[str, list[Any]] = {}
        with suppress(ValueError):
            self._known = read_json(self.folder / CHECKED, _CHECKED_RULE, REGENERATE)

    def of(self, name: str) -> StoredFile:
        """Checksum and size of a file, with 0 entries. Raises OSError if it cannot be read."""
        state = (self.folder / name).stat()
        known = self._known.get(name)
        if known is None or known[:2] != [state.st_mtime_ns, state.st_size]:
            return self.fresh(name)
        return StoredFile(name, known[2], state.st_size, 0)

    def fresh(self, name: str) -> StoredFile:
        """``of`` from the bytes on the disk, at about a second per GB."""
        path = self.folder / name
        state = path.stat()
        self._known[name] = [state.st_mtime_ns, state.st_size, file_digest(path)]
        return StoredFile(name, self._known[name][2], state.st_size, 0)

    def forget(self, name: str) -> None:
        """Drop a file from the saved cache, so that the next writer or reader hashes it."""
        self._known.pop(name, None)
        self.save()

    def save(self) -> None:
        """Save the hashes; if the folder is read-only, the files are hashed again next time."""
        text = json.dumps(self._known)
        with suppress(OSError):
            _save_text(self.folder / CHECKED, text)


def _save_text(path: Path, text: str) -> None:
    def write(file: Path) -> None:
        file.write_text(text, encoding="utf-8")

    atomic_write(path, write)
