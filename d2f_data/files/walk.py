"""Lists the files below a folder that a user has named, which may be the wrong one: a whole disk, or a home folder."""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

MOST_ENTRIES, MOST_LEVELS = 500_000, 32  # files and folders, and levels of folders, below a folder of images


def walk(folder: Path, seconds: float = math.inf) -> Iterator[tuple[str, Path]]:
    """(relative name, path) of all files below a folder, sorted by name; hidden ones and link loops are skipped.

    Args:
        folder: an existing folder.
        seconds: how long the search may take.

    Raises:
        ValueError: there are too many files or levels of folders for a training set; names the folder and the limit.
        TimeoutError: the search took longer.
    """
    visited: set[str] = set()
    found, entries, end = list[Path](), 0, time.monotonic() + seconds
    for current, folders, files in os.walk(folder, followlinks=True):
        entries += len(folders) + len(files)
        _check_extent(folder, entries, len(Path(current).parts) - len(folder.parts))
        if time.monotonic() > end:
            raise TimeoutError(f"looking through {folder} took more than {seconds:g} s")
        real = os.path.realpath(current)
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith((".", "__MACOSX"))]
        if real not in visited:
            found += [Path(current, name) for name in files if not name.startswith(".")]
        visited.add(real)
    yield from sorted((path.relative_to(folder).as_posix(), path) for path in found)


def _check_extent(folder: Path, entries: int, depth: int) -> None:
    limit = f"more than {MOST_ENTRIES} files and folders" if entries > MOST_ENTRIES else ""
    limit = limit or (f"folders more than {MOST_LEVELS} levels deep" if depth > MOST_LEVELS else "")
    if limit:
        raise ValueError(
            f"the folder {folder} has {limit}, which is no training set; choose the folder of the images themselves"
        )
