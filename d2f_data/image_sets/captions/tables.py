"""Tables of captions: one file for many images, in the dialects that are about.

    metadata.jsonl   {"file_name": "cat.png", "text": "a cat"}           one object per line
    metadata.csv     file_name,text                                      commas, semicolons, tabs or bars
                     cat.png,a cat                                       without a header: file, caption
    metadata.json    {"cat.png": "a cat"}, {"cat": {"caption": "a cat", "tags": "cat, mat"}}, or a list of objects

Names are relative to the folder of the table, or absolute, and may lack the extension. A list of captions counts as
several lines. Of "caption" and "tags" of one image, the caption counts.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...files.json_schema import InvalidJsonError, anything, parse_json
from ..images import READABLE, InvalidFile
from .settings import InvalidCaptionError
from .text_files import read_text

SUFFIXES = (".jsonl", ".csv", ".tsv", ".json")
FILE_KEYS = ("file", "file_name", "image", "filename", "image_file", "image_path", "file_path", "path", "img")
TEXT_KEYS = ("caption", "text", "prompt", "description", "captions", "tags")
_DELIMITERS = ",;\t|"


@dataclass
class Table:
    """The captions of one table: image -> text, its invalid lines, and why it is none, if it is none."""

    name: str
    captions: dict[str, str] = field(default_factory=dict)
    invalid: list[InvalidFile] = field(default_factory=list)
    fault: str = ""


class Tables:
    """The tables of a folder.

    Args:
        folder: the training folder.
        files: (relative name, path) of all its files.
        suffixes: which kinds of tables are read.
    """

    def __init__(self, folder: Path, files: Iterable[tuple[str, Path]], suffixes: tuple[str, ...] = SUFFIXES) -> None:
        files = list(files)
        self._folder = folder
        self._images = {name for name, path in files if path.suffix.lower() in READABLE}
        self._stems: dict[str, list[str]] = {}
        for image in sorted(self._images):
            self._stems.setdefault(str(PurePosixPath(image).with_suffix("")), []).append(image)
        self.tables: list[Table] = []
        self.captions: dict[str, str] = {}
        self.origin: dict[str, str] = {}  # image -> name of its table
        for name, path in files:
            if path.suffix.lower() in suffixes and not self._beside(name):
                self._add(name, path)

    def _beside(self, name: str) -> bool:
        """Whether a JSON file is about one image alone, "cat.json" or "cat.png.json", as downloaders write them."""
        stem = str(PurePosixPath(name).with_suffix(""))
        return name.lower().endswith(".json") and (stem in self._stems or stem in self._images)

    def _add(self, name: str, path: Path) -> None:
        table = Table(name)
        self.tables.append(table)
        try:
            text = read_text(path)
        except InvalidCaptionError as error:
            table.invalid.append(InvalidFile(name, str(error)))
            return
        kind = path.suffix.lower()
        rows = _json_lines(text) if kind == ".jsonl" else self._json(text) if kind == ".json" else self._csv(text)
        try:
            for place, entry in rows:
                self._take(table, place, entry)
        except _NotATableError as error:
            table.fault = str(error)

    def _take(self, table: Table, place: str, entry: Any) -> None:
        try:
            file, caption = _file_and_text(entry)
            image = self._image(table.name, file)
            if image in self.captions:
                raise InvalidCaptionError(f"is a second caption for {file!r}; remove one of the two")
            self.captions[image] = table.captions[image] = caption
            self.origin[image] = table.name
        except InvalidCaptionError as error:
            table.invalid.append(InvalidFile(f"{table.name}, {place}", str(error)))

    def _image(self, table: str, file: str) -> str:
        """Name of the image that a table means. Raises InvalidCaptionError."""
        written = file.replace("\\", "/")
        if written.startswith(str(self._folder).replace(os.sep, "/") + "/"):
            image = os.path.relpath(written, self._folder).replace(os.sep, "/")
        else:
            image = os.path.normpath(PurePosixPath(table).parent / written).replace(os.sep, "/")
        if image in self._images:
            return image
        of_stem = self._stems.get(image, [])
        if len(of_stem) == 1:
            return of_stem[0]
        why = f"could be {' or '.join(of_stem)}; add" if of_stem else "is not in the folder; correct the name or remove"
        raise InvalidCaptionError(f"names {file!r}, which {why} the {'extension' if of_stem else 'line'}")

    def _json(self, text: str) -> Iterator[tuple[str, Any]]:
        try:
            value = parse_json(text, anything)
        except InvalidJsonError as error:
            raise _NotATableError(f"it is not JSON ({error})") from None
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            if not any(key in value[0] for key in FILE_KEYS):
                raise _NotATableError(f"its entries have no key {' or '.join(map(repr, FILE_KEYS[:3]))}")
            yield from ((f"entry {number}", one) for number, one in enumerate(value, 1))
        elif isinstance(value, dict) and value and all(_is_caption(one) for one in value.values()):
            for name, one in value.items():
                yield f"entry {name!r}", {**(one if isinstance(one, dict) else {"caption": one}), "file": name}
        else:
            raise _NotATableError("it holds neither image names with captions nor a list of objects")

    def _csv(self, text: str) -> Iterator[tuple[str, Any]]:
        first = next((line for line in text.splitlines() if line.strip()), "")
        delimiter = max(_DELIMITERS, key=first.count)
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
        rows = [row for row in rows if any(cell.strip() for cell in row)]
        header = [cell.strip().lower() for cell in rows[0]] if rows else []
        start = 1
        if not set(header) & set(FILE_KEYS) or not set(header) & set(TEXT_KEYS):
            if len(header) < 2 or Path(header[0]).suffix.lower() not in READABLE:
                raise _NotATableError(
                    f"its first line has no column {' or '.join(map(repr, FILE_KEYS[:3]))} with "
                    f"{' or '.join(map(repr, TEXT_KEYS[:2]))} beside it"
                )
            header, start = ["file", "caption"], 0
        for number, row in enumerate(rows[start:], start + 1):
            yield f"row {number}", dict(zip(header, row))


class _NotATableError(ValueError):
    """Why a file is no table of captions."""


def _json_lines(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", parse_json(line, anything)
        except InvalidJsonError as error:
            yield f"line {number}", error


def _is_caption(value: Any) -> bool:
    keys = set(value) & set(TEXT_KEYS) if isinstance(value, dict) else ()
    return isinstance(value, str) or bool(keys)


def _file_and_text(entry: Any) -> tuple[str, str]:
    """(file, caption) of an entry. Raises InvalidCaptionError."""
    if isinstance(entry, InvalidJsonError):
        raise InvalidCaptionError(f"is not JSON ({entry}); correct the line")
    return _value(entry, FILE_KEYS), _value(entry, TEXT_KEYS)


def _value(entry: Any, keys: tuple[str, ...]) -> str:
    """The first text among the values of some keys; a list of texts is several lines."""
    value = next((entry[key] for key in keys if key in entry), None) if isinstance(entry, Mapping) else None
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        value = "\n".join(value) if keys is TEXT_KEYS else None
    if not isinstance(value, str):
        shown = " or ".join(map(repr, keys[:3]))
        raise InvalidCaptionError(f"has no text under {shown}; correct the line")
    return value
