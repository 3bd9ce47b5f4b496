"""Folders that users name: where they are, and whether their files have changed."""

import difflib
from pathlib import Path

from ...d2f_data.fingerprints import text_digest
from ...d2f_data.image_sets.folder import walk
from .. import host


def folder_state(folder: str | None) -> str:
    """Hash of names, sizes and times of all files in a folder that a user named; "" for one that is not there."""
    if not folder or not (place := locate_folder(folder)).is_dir():
        return ""
    files = [(name, path.stat()) for name, path in walk(place) if path.is_file()]
    facts = [(name, status.st_size, status.st_mtime_ns) for name, status in files]
    return text_digest(repr(facts))


def locate_folder(folder: str) -> Path:
    """The folder that a user named: absolute, or inside ComfyUI's input folder."""
    return host.input_folder() / Path(folder.strip().strip("\"'")).expanduser()


def existing_folder(folder: str) -> Path:
    """The folder that a user named. Raises ValueError that names what exists nearby."""
    place = locate_folder(folder)
    if folder.strip().strip("\"'") and place.is_dir():
        return place
    around = next(parent for parent in (place, *place.parents) if parent.is_dir())
    names = sorted(path.name for path in around.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = difflib.get_close_matches(place.name, names, 5, 0.4) or names[:10]
    nearby = f"{around} has the folders {', '.join(map(repr, names))}" if names else f"{around} has no folders"
    raise ValueError(
        f"folder {folder!r} is not a folder ({place}); give an absolute path, or one inside ComfyUI's input folder "
        f"({host.input_folder()}). {nearby}"
    )
