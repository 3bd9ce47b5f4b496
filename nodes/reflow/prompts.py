"""Prompts of reflow pairs: lines from the widget and from a file, or CONDITIONINGs that are already encoded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import host
from ..network.conditionings import Entry, entries_of, some_entries

MAX_FILE_BYTES = 16 << 20  # of a file of prompts: 200,000 of them
# Options of an entry that is a text and nothing else; those of several can be put into one batch.
_TEXT = {"pooled_output"}


class Prompts(NamedTuple):
    """Texts for reports, and one CONDITIONING entry per text."""

    texts: list[str]
    entries: list[Entry]
    source: str = "prompts"
    """Name of the input that they came from."""


def gather_prompts(texts: Sequence[str], file: str, clip: Any, positive: Sequence[Any] | None) -> Prompts:
    """Collect all prompts and encode them.

    Args:
        texts: prompts, one per line.
        file: path of a text file with one prompt per line, absolute or relative to the input folder; "" for none.
        clip: CLIP that encodes the prompts; not needed with ``positive``.
        positive: one or more CONDITIONINGs to use instead of texts.

    Raises:
        ValueError: there are no prompts, texts as well as conditionings, or texts without a CLIP.
    """
    lines = [line.strip() for text in [*texts, read_prompts(file)] for line in text.splitlines()]
    lines = [line for line in lines if line]
    if lines and positive:
        raise ValueError(
            "'positive' is connected and there are prompts too; disconnect 'positive', or empty 'prompts' and "
            "'prompt_file'"
        )
    if positive:
        entries = some_entries(positive, "positive")
        return Prompts([f"conditioning {i}" for i in range(len(entries))], entries, "positive")
    if not lines:
        raise ValueError(
            "there are no prompts; write one per line into 'prompts', set 'prompt_file', or connect 'positive'"
        )
    if clip is None:
        raise ValueError(
            "'prompts' need a text encoder; connect the 'clip' of the checkpoint, or 'positive' instead of prompts"
        )
    return Prompts(lines, [_encode(clip, line) for line in lines])


def sampling_groups(entries: Sequence[Entry]) -> list[tuple[list[int], list[Entry]]]:
    """Items of a batch that can be sampled together: (rows, CONDITIONING for them).

    Plain texts of the same length go together, as one entry with a batch of texts; all others one by one.

    Args:
        entries: the prompt of each item.
    """
    if any(entry is not entries[0] for entry in entries) and _are_texts(entries):
        pooled = [options["pooled_output"] for _, options in entries if options.get("pooled_output") is not None]
        joined = {"pooled_output": torch.cat(pooled)} if pooled else {}
        return [(list(range(len(entries))), [[torch.cat([cross for cross, _ in entries]), joined]])]
    groups: dict[int, list[int]] = {}
    for row, entry in enumerate(entries):
        groups.setdefault(id(entry), []).append(row)
    return [(rows, [entries[rows[0]]]) for rows in groups.values()]


def _are_texts(entries: Sequence[Entry]) -> bool:
    """Whether entries are plain texts of one length, all of them with or all without a pooled output."""
    kinds = {(tuple(cross.shape), options.get("pooled_output") is None) for cross, options in entries}
    return len(kinds) == 1 and all(options.keys() <= _TEXT for _, options in entries)


def _encode(clip: Any, prompt: str) -> Entry:
    host.throw_if_interrupted()
    return entries_of([host.encode_caption(clip, prompt)])[0]


def read_prompts(file: str) -> str:
    """The text of a file of prompts; "" for none. Raises ValueError if it cannot be read, or may not."""
    if not file.strip():
        return ""
    path = host.user_path("prompt_file", file)
    try:
        return _text_of(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"prompt_file {path} cannot be read ({error}); set it to a UTF-8 text file, either an absolute path or a "
            f"path inside ComfyUI's input folder ({host.input_folder()})"
        ) from error


def _text_of(path: Path) -> str:
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise ValueError("it is not a file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"it has {path.stat().st_size >> 20} MiB; {MAX_FILE_BYTES >> 20} are allowed")
    text = path.read_text(encoding="utf-8-sig")
    if "\0" in text:
        raise ValueError("it is not a text file")
    return text
