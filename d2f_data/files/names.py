"""File names: checked so that every operating system takes them, and numbered so that nothing is overwritten."""

import re
from pathlib import Path

_MAX_BYTES = 100  # per part of a name
_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def free_path(folder: Path, stem: str, suffix: str) -> Path:
    """The next numbered path, ``folder / stem_00001.suffix``: one above the highest number that is there.

    Args:
        folder: may be missing.
        stem: a name that ``check_name`` took.
        suffix: with its dot.
    """
    target = Path(folder) / stem
    numbered = re.compile(re.escape(target.name) + r"_(\d{5,})" + re.escape(suffix), re.IGNORECASE)
    there = target.parent.iterdir() if target.parent.is_dir() else ()
    matches = [numbered.fullmatch(path.name) for path in there]
    last = max((int(match[1]) for match in matches if match), default=0)
    return target.with_name(f"{target.name}_{last + 1:05}{suffix}")


def check_name(name: str, what: str) -> str:
    """A file or folder name that is safe everywhere; a forward slash makes subfolders.

    Args:
        name: what a user typed.
        what: what the name is for, in an error: "the LoRA's file name".

    Raises:
        ValueError: names the fault, the value and the remedy.
    """
    for part in name.split("/") if name else [""]:
        fault = _fault(part)
        if fault:
            raise ValueError(
                f"{what} {name!r} {fault}; use letters, digits, - and _, with / between subfolders, as in "
                "'diff2flow/my_lora'"
            )
    return name


def _fault(part: str) -> str | None:
    """What is wrong with one part of a name, if anything."""
    if not part:
        return "is empty, starts or ends with /, or has an empty part"
    if part.strip(".") == "":
        return "leads out of its folder"
    found = _FORBIDDEN.search(part)
    if found:
        return f"has the character {found[0]!r}, which file names cannot have everywhere"
    if part != part.strip() or part.endswith("."):
        return f"has a part that starts or ends with a space, or ends with a dot ({part!r})"
    if _RESERVED.fullmatch(part):
        return f"has the part {part!r}, which Windows keeps for a device"
    if len(part.encode()) > _MAX_BYTES:
        return f"has a part of {len(part.encode())} bytes; {_MAX_BYTES} are allowed"
    return None
