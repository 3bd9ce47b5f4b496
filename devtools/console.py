"""What the user sees: one-sentence errors, a progress line, a table."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO


class DevError(Exception):
    """Something the user can mend; its text is one clear sentence (the log's tail may follow)."""


def say(text: str) -> None:
    """Print a line now, also when the output is a pipe."""
    print(text, flush=True)


class Progress:
    """A line that is rewritten in place on a terminal, and printed now and then elsewhere.

    `every` is the least time in seconds between two printed lines when there is no terminal.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 20.0) -> None:
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.every = every
        self.printed = time.monotonic()

    def update(self, text: str) -> None:
        if self.live:
            self.stream.write("\r\x1b[K" + text[:110])
        elif time.monotonic() - self.printed >= self.every:
            self.stream.write(text + "\n")
        else:
            return
        self.printed = time.monotonic()
        self.stream.flush()

    def close(self, text: str = "") -> None:
        """Clear the live line and leave `text` for good."""
        if self.live:
            self.stream.write("\r\x1b[K")
        if text:
            self.stream.write(text + "\n")
        self.stream.flush()


def bar(value: float, maximum: float, width: int = 24) -> str:
    """`[######......] 3/12`"""
    full = int(width * min(1.0, value / maximum)) if maximum > 0 else 0
    return f"[{'#' * full}{'.' * (width - full)}] {value:g}/{maximum:g}"


def cell(value: object) -> str:
    """A table cell: floats with four digits, None as a dash."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[dict[str, object]]) -> str:
    """Rows of flat objects as aligned text; columns are the keys in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns] + [[cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(line, widths)).rstrip() for line in lines)


def tail(path: object, lines: int = 15) -> str:
    """The last lines of a log file, indented; empty when there is none."""
    try:
        with open(str(path), encoding="utf-8", errors="replace") as file:
            return "".join("    " + line for line in file.readlines()[-lines:]).rstrip()
    except OSError:
        return ""
