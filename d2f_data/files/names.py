"""File names: checked so that every operating system takes them, and numbered so that nothing is overwritten."""

import re
from pathlib import Path

_MAX_BYTES = 100  # per part of a name
_MAX_TOTAL = 1000  # of a name with its subfolders
_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def free_path(folder: Path, stem: str, suffix: str) -> Path:
    """The next numbered path, ``folder / stem_00001.suffix``: one above the highest existing number.

    Args:
        folder: folder of the file; need not exist.
        stem: a name that ``check_name`` accepts; may contain subfolders.
        suffix: suffix with its dot.
    """
    target = Path(folder) / stem
    numbered = re.compile(re.escape(target.name) + r"_(\d{5,})" + re.escape(suffix), re.IGNORECASE)
    existing = target.parent.iterdir() if target.parent.is_dir() else ()
    matches = [numbered.fullmatch(path.name) for path in existing]
    last = max((int(match[1]) for match in matches if match), default=0)
    return target.with_name(f"{target.name}_{last + 1:05}{suffix}")


def unused_path(folder: Path, stem: str, suffix: str) -> Path:
    """``folder / stem.suffix`` if there is no such file, else the next of ``stem_00002.suffix`` and so on."""
    path = Path(folder) / f"{stem}{suffix}"
    number = 1
    while path.exists():
        number += 1
        path = Path(folder) / f"{stem}_{number:05}{suffix}"
    return path


def check_name(name: str, what: str) -> str:
    """Return a file or folder name if it is valid on every operating system; ``/`` separates subfolders.

    Args:
        name: the user's input.
        what: description of the name in errors, such as "the LoRA's file name".

    Raises:
        ValueError: the name is invalid; says why.
    """
    fault = unreadable(name, _MAX_TOTAL) or next(filter(None, map(_fault, name.split("/"))), None)
    if fault:
        raise ValueError(
            f"{what} {shorten(name)} {fault}; use letters, digits, - and _, with / between subfolders, as in "
            "'diff2flow/my_lora'"
        )
    return name


def shorten(name: str) -> str:
    """The ``repr`` of a name for an error, at most 120 characters of it."""
    return repr(name) if len(name) <= 120 else repr(name[:117] + "...")


def unreadable(name: str, most: int) -> str | None:
    """What makes a name or a path impossible to look up on any operating system; None if nothing does.

    Args:
        name: the user's input.
        most: the most bytes that it may have.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        return f"has the character {name[error.start]!r}, which is half of one (a lone surrogate)"
    if "\0" in name:
        return "has the character '\\x00', which ends a path"
    return f"has {size} bytes; {most} are allowed" if size > most else None


def _fault(part: str) -> str | None:
    """What is wrong with one part of a name; None if it is valid."""
    if not part:
        return "is empty, starts or ends with /, or has an empty part"
    if part.strip(".") == "":
        return "leads out of its folder"
    found = _FORBIDDEN.search(part)
    if found:
        return f"has the character {found[0]!r}, which is not allowed in file names on every system"
    if part != part.strip() or part.endswith("."):
        return f"has a part that starts or ends with a space, or ends with a dot ({part!r})"
    if _RESERVED.fullmatch(part):
        return f"has the part {part!r}, which Windows reserves for a device"
    if len(part.encode()) > _MAX_BYTES:
        return f"has a part of {len(part.encode())} bytes; {_MAX_BYTES} are allowed"
    return None
