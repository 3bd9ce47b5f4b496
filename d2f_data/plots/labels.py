"""Labels of pictures in Pillow's own font."""

from typing import Any


def fitting(pen: Any, text: str, width: int) -> str:
    """As much of a text as fits a width in pixels, cut between words where there are any."""
    length = len(text)
    while length and pen.textlength(drawable(text[:length])) > width:
        length -= 1
    if length < len(text) and " " in text[:length].strip():
        length = text.rindex(" ", 0, length)
    return text[:length]


def shortened(pen: Any, text: str, width: int) -> str:
    """The text as far as it fits a width in pixels, with dots at the end if it goes on."""
    line = fitting(pen, text, width)
    return line if line == text else f"{line[:-3]}..."


def drawable(text: str) -> str:
    """The text in Latin-1, as Pillow's own font draws nothing else; other characters become question marks."""
    return text.encode("latin-1", "replace").decode("latin-1")
