"""Where the captions of a training set come from, and what is made of each.

lines of the source -> joined, the first, or one per epoch -> tags shuffled and dropped -> prefix in front
"""

import re
from dataclasses import dataclass, field

from ..images import READABLE, UNREADABLE
from .tags import TagSettings, caption_variants

CAPTION_SOURCES = ("auto", "txt", "jsonl", "none", "table", "file_name", "folder_name")
LINES = ("joined", "first", "random")
TEXT_SUFFIXES = (".txt", ".caption")
"""Extensions of caption files, the first one found beside an image counts."""


class InvalidCaptionError(ValueError):
    """The reason why a caption cannot be used; the caller adds the name of the file."""


@dataclass(frozen=True)
class Captions:
    """Where captions come from, and what is made of them.

    Attributes:
        source: "auto" (a caption file with the image's name, otherwise a table, otherwise the folder's name if it is
            ``10_name``), "txt" (caption files), "jsonl", "table" (JSONL, CSV, TSV and JSON), "file_name",
            "folder_name", or "none".
        fallback: caption of images with no caption or an empty one.
        prefix: text that is prepended to every caption, separated by a comma.
        extension: extension of the caption files; "" for .txt, otherwise .caption.
        lines: what several lines are: "joined", "first", or "random" (one of them per epoch).
        tags: how comma-separated captions vary.
        seed: of the random captions.
    """

    source: str = "auto"
    fallback: str = ""
    prefix: str = ""
    extension: str = ""
    lines: str = "joined"
    tags: TagSettings = field(default_factory=TagSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.source not in CAPTION_SOURCES:
            raise ValueError(f"unknown caption source {self.source!r}; allowed are {', '.join(CAPTION_SOURCES)}")
        if self.lines not in LINES:
            raise ValueError(f"unknown caption_lines {self.lines!r}; allowed are {', '.join(LINES)}")
        _ = self.suffixes

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Extensions of the caption files, with their dots.

        Raises:
            ValueError: the extension cannot be that of a text file.
        """
        given = self.extension.strip()
        if not given:
            return TEXT_SUFFIXES
        suffix = given if given.startswith(".") else f".{given}"
        if not re.fullmatch(r"(\.[\w-]+)+", suffix) or suffix.lower() in READABLE | UNREADABLE:
            raise ValueError(
                f"caption_extension is {self.extension!r}; give the extension of text files beside the images, such as "
                ".caption or .tags, or leave it empty for .txt and .caption"
            )
        return (suffix,)

    @property
    def start(self) -> str:
        """The prefix without the comma that follows it."""
        return self.prefix.strip().rstrip(",").rstrip()

    def finish(self, lines: tuple[str, ...], image: str, prefixed: bool = True) -> tuple[str, ...]:
        """The texts to encode, one or more; if there are more, one of them is drawn per epoch.

        Args:
            lines: of the source, white space collapsed; empty for the prefix alone.
            image: name of the image, which decides its random captions.
            prefixed: whether the prefix is put in front.
        """
        chosen = lines or ("",)
        if self.lines == "joined":
            chosen = (" ".join(chosen),)
        elif self.lines == "first":
            chosen = chosen[:1]
        start = self.start if prefixed else ""
        varied = caption_variants(chosen, self.tags, self.seed, image)
        return tuple(", ".join(part for part in (start, text) if part) for text in varied)


def lines_of(text: str) -> tuple[str, ...]:
    """The lines of a caption that are not empty, white space collapsed."""
    return tuple(line for line in (" ".join(one.split()) for one in text.splitlines()) if line)
