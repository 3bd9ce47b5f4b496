"""Prompts of reflow pairs: lines from the widget and from a file, or CONDITIONINGs that are already encoded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import host
from ..network.conditionings import Entry, entries_of, some_entries

MAX_FILE_BYTES = 16 << 20  # of a file of prompts: 200,000 of them


class Prompts(NamedTuple):
    """Texts for reports, and one CONDITIONING entry per text."""

    texts: list[str]
    entries: list[Entry]


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
    lines = [line.strip() for text in [*texts, _read(file)] for line in text.splitlines()]
    lines = [line for line in lines if line]
    if lines and positive:
        raise ValueError(
            "'positive' is connected and there are prompts too; disconnect 'positive', or empty 'prompts' and "
            "'prompt_file'"
        )
    if positive:
        entries = some_entries(positive, "positive")
        return Prompts([f"conditioning {i}" for i in range(len(entries))], entries)
    if not lines:
        raise ValueError(
            "there are no prompts; write one per line into 'prompts', set 'prompt_file', or connect 'positive'"
        )
    if clip is None:
        raise ValueError(
            "'prompts' need a text encoder; connect the 'clip' of the checkpoint, or 'positive' instead of prompts"
        )
    return Prompts(lines, [_encode(clip, line) for line in lines])


def _encode(clip: Any, prompt: str) -> Entry:
    host.throw_if_interrupted()
    return entries_of([host.encode_caption(clip, prompt)])[0]


def _read(file: str) -> str:
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
    if path.exists() and not path.is_file():  # to open a pipe would wait for its writer
        raise ValueError("it is not a file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"it has {path.stat().st_size >> 20} MiB; {MAX_FILE_BYTES >> 20} are allowed")
    text = path.read_text(encoding="utf-8-sig")
    if "\0" in text:
        raise ValueError("it is not a text file")
    return text
