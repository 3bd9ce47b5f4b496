"""The files of a set of reflow pairs, its manifest, and their checksums.

    manifest.json            settings, prompts, and name, SHA-256 and size of all other files; written last, when all
                             pairs exist
    progress.json            the same for a set that is not finished
    shard-00000.safetensors  "eps" and "x0" (n, C, h, w) of the pairs 0 to n - 1, and so on
    conditions.safetensors   conditioning kwargs of each prompt, as "<prompt index>.<name>"
    checked.json             cached SHA-256 of the files, with their modification time and size
    writer.lock              see ``lock``

Noise and latents are stored in model space, that is, in the scale that the network works in.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..files.atomic import atomic_write
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


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ValueError: the file is truncated, damaged or from a newer version; names it.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(values.pop("format"))
        if version <= FORMAT:
            stored = StoredFile(**dict(zip(StoredFile._fields, values["conditions"], strict=True)))
            shards = tuple(StoredFile(*shard) for shard in values["shards"])
            return Manifest(dict(values["settings"]), int(values["count"]), tuple(values["prompts"]), stored, shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error!r}); {REGENERATE}") from error
    raise ValueError(f"{path} has format {version}, but this version reads up to {FORMAT}; update Diff2Flow Kit")


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"shard-{index:05}.safetensors"


class Checksums:
    """SHA-256 of the files of a set; a file is hashed again only after its modification time or size has changed.

    Args:
        folder: folder of the set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._known: dict[str, list[Any]] = {}
        with suppress(OSError, ValueError, TypeError):
            self._known = dict(json.loads((self.folder / CHECKED).read_text(encoding="utf-8")))

    def of(self, name: str) -> StoredFile:
        """Checksum and size of a file, with 0 entries. Raises OSError if it cannot be read."""
        path = self.folder / name
        state = path.stat()
        key = [state.st_mtime_ns, state.st_size]
        known = self._known.get(name)
        if not (isinstance(known, list) and known[:2] == key and len(known) == 3):
            known = self._known[name] = [*key, file_digest(path)]
        return StoredFile(name, known[2], state.st_size, 0)

    def save(self) -> None:
        """Save the hashes; if the folder is read-only, the files are hashed again next time."""
        text = json.dumps(self._known)
        with suppress(OSError):
            _save_text(self.folder / CHECKED, text)


def _save_text(path: Path, text: str) -> None:
    def write(file: Path) -> None:
        file.write_text(text, encoding="utf-8")

    atomic_write(path, write)
