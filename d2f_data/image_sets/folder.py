"""The contents of a training folder: images with their captions and masks, and the files that cannot be used.

    photos/cat.png             an image
    photos/cat.txt             its caption, UTF-8
    photos/cat-masklabel.png   its loss mask (or photos/masks/cat.png): white is trained on
    photos/metadata.jsonl      or one caption per line: {"file": "cat.png", "caption": "a cat"}

Subfolders are searched, too. The keys ``file_name`` and ``image`` are synonyms of ``file``, ``text`` of ``caption``;
file names are relative to the folder of the JSONL file. Files outside of the folder are never opened.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..files.json_schema import InvalidJsonError, anything, parse_json
from ..files.walk import walk
from .images import READABLE, UNREADABLE

CAPTION_SOURCES = ("auto", "txt", "jsonl", "none")
MASK_FOLDER = "masks"
MASK_SUFFIX = "-masklabel"
_FILE_KEYS, _TEXT_KEYS = ("file", "file_name", "image"), ("caption", "text")


class InvalidCaptionError(ValueError):
    """The reason why a caption cannot be used; the caller adds the name of the file."""


@dataclass(frozen=True)
class TrainingImage:
    """An image to train on, with its caption.

    Attributes:
        path: path of the image file.
        name: path relative to the training folder, with forward slashes.
        caption: the text to encode, including the prefix.
        repeats: repeats from the name of the image's own folder (``10_name``), else 1.
        mask: path of its loss mask, if it has one.
    """

    path: Path
    name: str
    caption: str
    repeats: int = 1
    mask: Path | None = None


@dataclass(frozen=True)
class InvalidFile:
    """A file that cannot be used, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Captions:
    """Where captions come from.

    Attributes:
        source: "auto" (a .txt file with the image's name, otherwise the JSONL file), "txt", "jsonl", or "none".
        fallback: caption of images with no caption or an empty one.
        prefix: text that is prepended to every caption, separated by a comma.
    """

    source: str = "auto"
    fallback: str = ""
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.source not in CAPTION_SOURCES:
            raise ValueError(f"unknown caption source {self.source!r}; allowed are {', '.join(CAPTION_SOURCES)}")

    def finish(self, caption: str | None) -> str:
        """The text to encode: white space collapsed, fallback and prefix applied.

        Raises:
            InvalidCaptionError: the image has no caption, and there is no fallback.
        """
        text = " ".join((caption or "").split()) or self.fallback.strip()
        if not text and self.source != "none":
            fault = "no caption" if caption is None else "the caption is empty"
            raise InvalidCaptionError(
                f"{fault}; write one into a .txt file of the same name, or set 'caption' for images without one"
            )
        return ", ".join(part for part in (self.prefix.strip().rstrip(",").rstrip(), text) if part)


def find_training_images(
    folder: Path, captions: Captions | None = None, folder_repeats: bool = False
) -> tuple[list[TrainingImage], list[InvalidFile]]:
    """The images in a folder and its subfolders, sorted by name, and the files that cannot be used.

    Args:
        folder: an existing folder.
        captions: where captions come from.
        folder_repeats: whether images in a folder named ``10_name`` are repeated 10 times.
    """
    captions = captions or Captions()
    files = list(walk(folder))
    listed, invalid = read_jsonl(folder, files) if captions.source in ("auto", "jsonl") else ({}, [])
    present, images = {name for name, _ in files}, []
    for name, path in files:
        if path.suffix.lower() in UNREADABLE:
            invalid.append(InvalidFile(name, f"{path.suffix} cannot be read; save it as PNG or JPEG"))
        if path.suffix.lower() not in READABLE or _is_mask(name, present):
            continue
        try:
            text = None
            if captions.source in ("auto", "txt") and (beside := path.with_suffix(".txt")).is_file():
                text = read_text(beside)
            caption = captions.finish(listed.get(name) if text is None else text)
        except InvalidCaptionError as error:
            invalid.append(InvalidFile(name, str(error)))
            continue
        repeats = _folder_repeats(name) if folder_repeats else 1
        images.append(TrainingImage(path, name, caption, repeats, _mask_of(path)))
    return images, invalid


def read_text(path: Path) -> str:
    """The text of a caption file. Raises InvalidCaptionError if it cannot be read as UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidCaptionError(
            f"{path.name} is not UTF-8 ({error.reason} at byte {error.start}); save it with UTF-8 encoding"
        ) from None
    except OSError as error:
        raise InvalidCaptionError(f"{path.name} cannot be read ({error.strerror}); check its permissions") from None
    if "\0" in text:
        raise InvalidCaptionError(f"{path.name} is not a text file; write the caption as UTF-8 text")
    return text


def read_jsonl(folder: Path, files: list[tuple[str, Path]]) -> tuple[dict[str, str], list[InvalidFile]]:
    """Captions by image name from all JSONL files of a folder, and the invalid lines."""
    present, captions, invalid = {name for name, _ in files}, dict[str, str](), list[InvalidFile]()
    for name, path in files:
        if path.suffix.lower() != ".jsonl":
            continue
        try:
            lines = read_text(path).splitlines()
        except InvalidCaptionError as error:
            invalid.append(InvalidFile(name, str(error)))
            continue
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                file, caption = _entry(line)
                image = os.path.normpath(PurePosixPath(name).parent / file.replace("\\", "/")).replace(os.sep, "/")
                _check_entry(image, file, present, captions)
                captions[image] = caption
            except InvalidCaptionError as error:
                invalid.append(InvalidFile(f"{name}, line {number}", str(error)))
    return captions, invalid


def _entry(line: str) -> tuple[str, str]:
    """(file, caption) from one line of JSON. Raises InvalidCaptionError."""
    try:
        entry = parse_json(line, anything)
    except InvalidJsonError as error:
        raise InvalidCaptionError(f"is not JSON ({error}); correct the line") from None
    values = []
    for keys in (_FILE_KEYS, _TEXT_KEYS):
        value = next((entry[key] for key in keys if key in entry), None) if isinstance(entry, dict) else None
        if not isinstance(value, str):
            raise InvalidCaptionError(f"has no text under {' or '.join(map(repr, keys))}; correct the line")
        values.append(value)
    return values[0], values[1]


def _check_entry(image: str, file: str, present: set[str], captions: dict[str, str]) -> None:
    if image not in present:
        raise InvalidCaptionError(f"names {file!r}, which is not in the folder; correct the name or remove the line")
    if image in captions:
        raise InvalidCaptionError(f"is a second caption for {file!r}; remove one of the two")


def _is_mask(name: str, present: set[str]) -> bool:
    """Whether an image file is the loss mask of another image."""
    path = PurePosixPath(name)
    if path.parent.name == MASK_FOLDER:
        return True
    image = path.with_name(path.stem.removesuffix(MASK_SUFFIX))
    return path.stem.endswith(MASK_SUFFIX) and any(f"{image}{suffix}" in present for suffix in READABLE)


def _mask_of(path: Path) -> Path | None:
    """The loss mask of an image, if there is one."""
    candidates = (path.with_name(f"{path.stem}{MASK_SUFFIX}.png"), path.parent / MASK_FOLDER / f"{path.stem}.png")
    return next((mask for mask in candidates if mask.is_file()), None)


def _folder_repeats(name: str) -> int:
    """10 for ``10_name/image.png``, 1 if the folder name has no number."""
    match = re.match(r"(\d+)_", PurePosixPath(name).parent.name)
    return max(1, int(match.group(1))) if match else 1
