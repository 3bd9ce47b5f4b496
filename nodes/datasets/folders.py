"""Folders that users name in a widget: where they are, and whether their files have changed."""

import difflib
import os
import time
from pathlib import Path

from ...d2f_data.files.names import shorten
from ...d2f_data.files.walk import walk
from ...d2f_data.fingerprints import text_digest
from .. import host

SECONDS_TO_LOOK = 10.0  # that a fingerprint may take, as nothing is shown while it is made


def folder_state(folder: str | None) -> str:
    """Hash of the names, sizes and modification times of all files in a folder; "" if the folder does not exist.

    Nothing is raised: a folder that may not be read, or is too large to look through, has a new state at every call,
    so that the node runs and reports the error.

    Args:
        folder: value of the widget; None while the input is connected.
    """
    if not folder or not folder.strip():
        return ""
    try:
        root = host.user_path("folder", folder)
        return _state(root) if os.path.isdir(root) else ""
    except (OSError, ValueError):
        return f"unknown {time.time_ns()}"


def _state(root: Path) -> str:
    _check_extent("folder", root)
    files, end = [], time.monotonic() + SECONDS_TO_LOOK
    for name, path in walk(root, SECONDS_TO_LOOK):
        if time.monotonic() > end:
            raise TimeoutError
        if path.is_file():
            status = path.stat()
            files.append((name, status.st_size, status.st_mtime_ns))
    return text_digest(repr(files))


def existing_folder(widget: str, folder: str) -> Path:
    """Path of an existing folder.

    Args:
        widget: name of the widget, for the error.
        folder: value of the widget.

    Raises:
        ValueError: the folder does not exist (lists similar ones that do), or may not be read.
    """
    path = host.user_path(widget, folder)
    if folder.strip().strip("\"'") and os.path.isdir(path):
        _check_extent(widget, path)
        return path
    raise ValueError(
        f"{widget} {shorten(folder)} is not a folder ({path}); enter an absolute path, or a path inside ComfyUI's "
        f"input folder ({host.input_folder()}). {_nearby(path)}"
    )


def _check_extent(widget: str, path: Path) -> None:
    """Raise ValueError for the root of a disk and the user's home folder."""
    if path == Path(path.anchor) or path == Path(os.path.expanduser("~")).resolve():
        raise ValueError(f"{widget} {path} holds everything that you have; enter the folder of the images themselves")


def _nearby(path: Path) -> str:
    """A sentence that lists folders where a missing folder was expected, those with a similar name if there are any."""
    parent = next(parent for parent in (path, *path.parents) if os.path.isdir(parent))
    if not host.may_read(parent):
        return ""
    try:
        names = sorted(child.name for child in parent.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError as error:
        return f"{parent} cannot be listed ({error.strerror})"
    names = difflib.get_close_matches(path.name, names, 5, 0.4) or names[:10]
    return f"{parent} has the folders {', '.join(map(repr, names))}" if names else f"{parent} has no folders"
