"""Finds the caption of each image of a training folder, and says what was left unused.

Nothing is guessed in silence: a file that is almost a caption file is named with the remedy, and a table that was not
asked for is mentioned.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..images import READABLE, InvalidFile
from . import names
from .settings import Captions, InvalidCaptionError, lines_of
from .tables import Tables
from .text_files import CaptionFiles, read_text

_TABLE_SOURCES = {"auto": None, "jsonl": (".jsonl",), "table": None}
_SHOWN = 5


class NoCaptionError(InvalidCaptionError):
    """An image without a caption, and nothing beside it that was probably meant as one."""


class FoundCaption(NamedTuple):
    """The lines of a caption, and where they come from, in the report's words."""

    lines: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class _Source:
    """Where captions of one kind come from: image -> text, None if it has none there."""

    origin: str
    text: Callable[[str], str | None]


class CaptionFinder:
    """The captions of a folder.

    Args:
        folder: the training folder.
        files: (relative name, path) of all its files.
        captions: where captions come from.
    """

    def __init__(self, folder: Path, files: list[tuple[str, Path]], captions: Captions) -> None:
        self.folder, self.captions = folder, captions
        self.paths = dict(files)
        self.files = CaptionFiles(self.paths, captions.suffixes)
        kinds = _TABLE_SOURCES.get(captions.source)
        self.tables = Tables(folder, files, *([kinds] if kinds else []))
        self._read: Counter[str] = Counter()  # caption file -> number of images
        self._several = 0
        self._both: list[str] = []  # images with two caption files
        self._unused: list[InvalidFile] = []
        self._names: list[str] = []

    @property
    def invalid(self) -> list[InvalidFile]:
        """The invalid lines of the tables, if they are a source."""
        asked = self.captions.source in _TABLE_SOURCES
        return [file for table in self.tables.tables for file in table.invalid] if asked else []

    def find(self, name: str) -> FoundCaption:
        """The caption of an image.

        Raises:
            NoCaptionError: it has none.
            InvalidCaptionError: it has one that cannot be used, or something almost is one.
        """
        self._names.append(name)
        text = None
        for source in self._sources():
            text = source.text(name)
            if text is not None and (lines := lines_of(text)):
                self._several += len(lines) > 1
                return FoundCaption(lines, source.origin)
            if text is not None:
                break
        return self._without(name, text is not None)

    def has_own(self, name: str) -> bool:
        """Whether an image has a caption file or a line in a table."""
        return bool(self.files.of(name)) or name in self.tables.captions

    def _sources(self) -> list[_Source]:
        source = self.captions.source
        text = _Source("caption files", self._text_file)
        table = _Source("tables", self.tables.captions.get)
        folder = _Source("folder names", lambda name: names.of_folder(self.folder, name))
        numbered = _Source("folder names", lambda name: names.of_numbered_folder(self.folder, name))
        file = _Source("file names", names.of_file)
        given = bool(self.captions.fallback.strip())
        return {
            "auto": [text, table] + ([] if given else [numbered]),
            "txt": [text],
            "jsonl": [table],
            "table": [table],
            "file_name": [file],
            "folder_name": [folder],
        }.get(source, [])

    def _text_file(self, name: str) -> str | None:
        found = self.files.of(name)
        if not found:
            return None
        if len(found) > 1:
            self._both.append(name)
        self._read[found[0]] += 1
        return read_text(self.paths[found[0]])

    def _without(self, name: str, empty: bool) -> FoundCaption:
        """The fallback for an image without a caption."""
        near = "" if empty or self.captions.source not in ("auto", "txt") else self.files.near_miss(name)
        if self.captions.source == "none" or self.captions.fallback.strip():
            if near:
                self._unused.append(InvalidFile(name, near))
            given = lines_of(self.captions.fallback)
            return FoundCaption(given, "widget 'caption'" if given else "prefix alone")
        table = self._table_of(name) if not near and self.captions.source not in _TABLE_SOURCES else ""
        if near or table:
            raise InvalidCaptionError(f"no caption; {near or table}")
        fault = "the caption is empty" if empty else "no caption"
        kind = InvalidCaptionError if empty else NoCaptionError
        raise kind(
            f"{fault}; write one into a {self.captions.suffixes[0]} file of the same name, or set 'caption' for images "
            "without one" + self._remedy()
        )

    def _remedy(self) -> str:
        return ", or 'captions' to none to give every image the prefix alone" if self.captions.start else ""

    def _table_of(self, name: str) -> str:
        table = self.tables.origin.get(name)
        return f"{table} has one; set 'captions' to auto or table to use it" if table else ""

    def notes(self) -> list[str]:
        """What the user should know: captions that were not used, shared ones, several lines."""
        found = [*self._notes_of_files(), *self._notes_of_tables()]
        if self._several:
            how = {"joined": "joined", "first": "only the first is used", "random": "one is drawn per epoch"}
            found.append(f"captions with several lines ({self._several}): {how[self.captions.lines]}")
        return found

    def _notes_of_files(self) -> list[str]:
        shared = [name for name, images in self._read.items() if images > 1]
        stray = self.files.without_image(name for name in self.paths if Path(name).suffix.lower() in READABLE)
        stray = [name for name in stray if self._read_at_all(name)]
        return [
            *_note("caption files that were not used, though they are beside images without a caption", self._unused),
            *_note("caption files that two or more images share", shared),
            *_note(f"images with several caption files, of which {self.captions.suffixes[0]} is used", self._both),
            *_note("caption files that belong to no image", stray),
        ]

    def _read_at_all(self, name: str) -> bool:
        """Whether a stray caption file matters: not where no caption file is read, and not a file about the set."""
        about = PurePosixPath(name).stem.lower() in ("readme", "license", "licence", "notes", "requirements")
        return self.captions.source in ("auto", "txt") and not about

    def _notes_of_tables(self) -> list[str]:
        found = []
        for table in self.tables.tables:
            named = [image for image in self._names if self.tables.origin.get(image) == table.name]
            beside = [image for image in named if self.files.of(image)]
            if self.captions.source not in _TABLE_SOURCES and named:
                found.append(
                    f"{table.name} has captions of images here ({len(named)}) and is not used; set 'captions' to auto "
                    "or table to use it"
                )
            elif self.captions.source == "auto" and beside:
                found.append(f"{table.name} has captions of images with a caption file ({len(beside)}), which counts")
            elif self.captions.source in _TABLE_SOURCES and table.fault:
                found.append(f"{table.name} is not used as a table of captions: {table.fault}")
        return found


def _note(title: str, found: list) -> list[str]:
    """One sentence with the first few of what was found; none if there is nothing."""
    shown = "; ".join(map(str, found[:_SHOWN]))
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return [f"{title} ({len(found)}): {shown}{more}"] if found else []
