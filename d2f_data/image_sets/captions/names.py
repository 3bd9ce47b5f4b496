"""Captions that are names: of the image's file, or of its folder, and kohya's ``10_sks dog``.

a red ball.png      "a red ball"            a_red_ball.png      "a red ball": underscores stand for spaces
10_sks dog/1.png    "sks dog", 10 repeats   sks dog/1.png       "sks dog"
"""

import re
from pathlib import Path, PurePosixPath

MOST_DIGITS = 3
_NUMBERED = re.compile(r"(\d+)_(.*)", re.DOTALL)


def of_file(name: str) -> str:
    """The caption in the name of an image file."""
    stem = PurePosixPath(name).stem
    return stem if " " in stem else stem.replace("_", " ")


def of_folder(root: Path, name: str) -> str:
    """The name of the folder that an image is in, without kohya's number."""
    folder = folder_name(root, name)
    match = _NUMBERED.fullmatch(folder)
    return match.group(2) if match else folder


def of_numbered_folder(root: Path, name: str) -> str | None:
    """The name of the image's folder without its number; None if it is not ``10_name``, or a year, ``2024_name``."""
    match = _NUMBERED.fullmatch(folder_name(root, name))
    return match.group(2).strip() or None if match and len(match.group(1)) <= MOST_DIGITS else None


def folder_repeats(name: str) -> int:
    """10 for ``10_name/image.png``, 1 if the folder name has no number."""
    match = _NUMBERED.fullmatch(PurePosixPath(name).parent.name)
    return max(1, int(match.group(1))) if match else 1


def folder_name(root: Path, name: str) -> str:
    """Name of the folder that holds an image; the training folder's own if it is at its top."""
    return PurePosixPath(name).parent.name or root.name
