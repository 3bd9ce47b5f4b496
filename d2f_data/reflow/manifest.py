"""What a set of reflow pairs consists of, and whether its files are what they were.

    manifest.json            written last, when all pairs are there: settings, prompts, and name, size and SHA-256
                             of every other file
    progress.json            the same of a set that is not finished
    shard-00000.safetensors  "eps" and "x0" (n, C, h, w): pairs 0 to n - 1, and so on
    conditions.safetensors   what the network was told, "<prompt>.<name>", once a prompt
    checked.json             files that were hashed before, by time and size
    writer.lock              see ``pairs_lock``

Latents and noise are in the scale that the network works in (model space), as the manifest says.
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
REGENERATE = "run Generate Reflow Pairs again with the same name and settings, which makes what is missing"

Settings = Mapping[str, str | int | float | bool | None]


class StoredFile(NamedTuple):
    """A file of a set: its name, SHA-256, bytes, and pairs or prompts in it."""

    file: str
    sha256: str
    bytes: int
    items: int


@dataclass(frozen=True)
class Manifest:
    """A set of pairs, or the part of it that is there.

    Attributes:
        settings: all that decides what pair i is; flat.
        count: pairs that were asked for.
        prompts: texts, for people.
        conditions: file of the conditions, one a prompt.
        shards: files of the pairs, in their order.
    """

    settings: Settings
    count: int
    prompts: tuple[str, ...]
    conditions: StoredFile
    shards: tuple[StoredFile, ...]

    @property
    def identity(self) -> str:
        """Hash of the settings, which every shard carries."""
        return json_digest(dict(self.settings))

    @property
    def items(self) -> int:
        """Pairs that are there."""
        return sum(shard.items for shard in self.shards)

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        _save_text(path, text)


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        ValueError: it is cut off, damaged, or of a newer version; names it.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(values.pop("format"))
        if version <= FORMAT:
            stored = StoredFile(**dict(zip(StoredFile._fields, values["conditions"], strict=True)))
            shards = tuple(StoredFile(*shard) for shard in values["shards"])
            return Manifest(dict(values["settings"]), int(values["count"]), tuple(values["prompts"]), stored, shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is cut off or damaged ({error!r}); {REGENERATE}") from error
    raise ValueError(f"{path} has format {version}, this version reads up to {FORMAT}; update Diff2Flow Kit")


def shard_name(index: int) -> str:
    """File of a shard."""
    return f"shard-{index:05}.safetensors"


class Checksums:
    """SHA-256 of the files in a folder; one that was hashed is not read again while its time and size stay.

    Args:
        folder: of the set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._known: dict[str, list[Any]] = {}
        with suppress(OSError, ValueError, TypeError):
            self._known = dict(json.loads((self.folder / CHECKED).read_text(encoding="utf-8")))

    def of(self, name: str) -> StoredFile:
        """A file as it is now, its items left at 0. Raises OSError if it cannot be read."""
        path = self.folder / name
        state = path.stat()
        key = [state.st_mtime_ns, state.st_size]
        known = self._known.get(name)
        if not (isinstance(known, list) and known[:2] == key and len(known) == 3):
            known = self._known[name] = [*key, file_digest(path)]
        return StoredFile(name, known[2], state.st_size, 0)

    def save(self) -> None:
        """Keep what is known; a folder that cannot be written to is hashed again next time."""
        text = json.dumps(self._known)
        with suppress(OSError):
            _save_text(self.folder / CHECKED, text)


def _save_text(path: Path, text: str) -> None:
    def write(file: Path) -> None:
        file.write_text(text, encoding="utf-8")

    atomic_write(path, write)
