"""Folders that users name in a widget: where they are, and whether their files have changed."""

import difflib
from pathlib import Path

from ...d2f_data.fingerprints import text_digest
from ...d2f_data.image_sets.folder import walk
from .. import host


def folder_state(folder: str | None) -> str:
    """Hash of the names, sizes and modification times of all files in a folder; "" if the folder does not exist.

    Args:
        folder: value of the widget; None while the input is connected.
    """
    if not folder or not (root := locate_folder(folder)).is_dir():
        return ""
    files = [(name, path.stat()) for name, path in walk(root) if path.is_file()]
    return text_digest(repr([(name, status.st_size, status.st_mtime_ns) for name, status in files]))


def locate_folder(folder: str) -> Path:
    """Path of a folder given as an absolute path or relative to ComfyUI's input folder; quotes and ~ are allowed."""
    return host.input_folder() / Path(_unquoted(folder)).expanduser()


def existing_folder(widget: str, folder: str) -> Path:
    """Path of an existing folder.

    Args:
        widget: name of the widget, for the error.
        folder: value of the widget.

    Raises:
        ValueError: the folder does not exist; lists similar ones that do.
    """
    path = locate_folder(folder)
    if _unquoted(folder) and path.is_dir():
        return path
    raise ValueError(
        f"{widget} {folder!r} is not a folder ({path}); enter an absolute path, or a path inside ComfyUI's input "
        f"folder ({host.input_folder()}). {_nearby(path)}"
    )


def _unquoted(folder: str) -> str:
    return folder.strip().strip("\"'")


def _nearby(path: Path) -> str:
    """A sentence that lists folders where a missing folder was expected, those with a similar name if there are any."""
    parent = next(parent for parent in (path, *path.parents) if parent.is_dir())
    names = sorted(child.name for child in parent.iterdir() if child.is_dir() and not child.name.startswith("."))
    names = difflib.get_close_matches(path.name, names, 5, 0.4) or names[:10]
    return f"{parent} has the folders {', '.join(map(repr, names))}" if names else f"{parent} has no folders"
