"""Several folders as one set: the widget 'more_folders', and what is in all of them.

photos_2 | repeats 3 | weight 0.5        a folder, and its options behind bars
any dogs | regularisation                images of what the trigger word is not
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ...d2f_data.image_sets.folder import Captions, FolderContents, read_folder
from ...d2f_data.image_sets.images import InvalidFile
from .folders import existing_folder

WIDGET = "more_folders"
_OPTIONS = "repeats 3, weight 0.5 and regularisation"
_REGULARISATION = ("regularisation", "regularization", "reg")


@dataclass(frozen=True)
class SetFolder:
    """A folder of a training set.

    Attributes:
        folder: as the user has written it.
        repeats: of each image, times the set's.
        weight: of the loss of its images.
        regularisation: whether its images show what the trigger word is not.
    """

    folder: str
    repeats: int = 1
    weight: float = 1.0
    regularisation: bool = False


def parse_folders(text: str) -> list[SetFolder]:
    """The folders in the widget, one per line. Raises ValueError that names the line."""
    return [_parse(line) for line in text.splitlines() if line.strip()]


def _parse(line: str) -> SetFolder:
    folder, *options = (part.strip() for part in line.split("|"))
    found = SetFolder(folder)
    for option in options:
        name, _, value = option.replace("=", " ").partition(" ")
        try:
            if name in _REGULARISATION and not value:
                found = replace(found, regularisation=True)
            elif name == "repeats" and 1 <= int(value) <= 1000:
                found = replace(found, repeats=int(value))
            elif name == "weight" and 0 <= float(value) <= 10:
                found = replace(found, weight=float(value))
            else:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{WIDGET}, line {line.strip()!r}: {option!r} is not an option; allowed are {_OPTIONS}, with 1 to 1000 "
                "repeats and weights from 0 to 10"
            ) from None
    return found


def read_folders(
    root: Path, more: Iterable[SetFolder], captions: Captions, folder_repeats: bool, regularisation_weight: float
) -> FolderContents:
    """What is in the folder of the node and in further ones; names in the latter begin with the folder's name.

    Raises:
        ValueError: a folder does not exist, may not be read, or is listed twice.
    """
    contents, seen = FolderContents(), {root.resolve()}
    _add(contents, SetFolder(""), "", read_folder(root, captions, folder_repeats), regularisation_weight)
    prefixes = {""}
    for entry in more:
        path = existing_folder(WIDGET, entry.folder)
        if path.resolve() in seen:
            raise ValueError(f"{WIDGET} names {entry.folder!r}, which is already in the set; give each folder once")
        seen.add(path.resolve())
        prefix = next(name for name in _names(path) if name not in prefixes)
        prefixes.add(prefix)
        own = replace(captions, prefix="") if entry.regularisation else captions
        _add(contents, entry, prefix, read_folder(path, own, folder_repeats), regularisation_weight)
    return contents


def _names(path: Path) -> Iterable[str]:
    yield f"{path.name}/"
    yield from (f"{path.name} {number}/" for number in range(2, 10_000))


def _add(contents: FolderContents, entry: SetFolder, prefix: str, found: FolderContents, reg_weight: float) -> None:
    """Add what was found in a folder to the contents of the set."""
    for image in found.images:
        regularisation = image.regularisation or entry.regularisation
        contents.images.append(
            replace(
                image,
                name=f"{prefix}{image.name}",
                repeats=image.repeats * entry.repeats,
                regularisation=regularisation,
                weight=entry.weight * (reg_weight if regularisation else 1.0),
            )
        )
    contents.invalid += [InvalidFile(f"{prefix}{file.name}", file.reason) for file in found.invalid]
    contents.notes += [f"{prefix.rstrip('/')}: {note}" if prefix else note for note in found.notes]
    contents.origins += found.origins
