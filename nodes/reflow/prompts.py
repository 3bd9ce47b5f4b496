"""The prompts of reflow pairs: lines of text and of a file, or CONDITIONINGs that are encoded already."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import host
from ..network.conditionings import Entry, entries_of, some_entries


class Prompts(NamedTuple):
    """Texts for people, and a CONDITIONING's entry for each."""

    texts: list[str]
    entries: list[Entry]


def gather_prompts(texts: Sequence[str], file: str, clip: Any, positive: Sequence[Any] | None) -> Prompts:
    """All prompts.

    Args:
        texts: prompts, one a line.
        file: path of a text file with one prompt a line, absolute or inside the input folder; "" for none.
        clip: encodes them; needed for texts.
        positive: CONDITIONINGs, one or more, instead of texts.

    Raises:
        ValueError: there are none, both kinds, or no CLIP; names the remedy.
    """
    lines = [line.strip() for text in [*texts, _read(file)] for line in text.splitlines()]
    lines = [line for line in lines if line]
    if lines and positive:
        raise ValueError("both 'positive' and prompts are given; disconnect 'positive', or empty the prompts")
    if positive:
        entries = some_entries(positive, "positive")
        return Prompts([f"conditioning {i}" for i in range(len(entries))], entries)
    if not lines:
        raise ValueError("there are no prompts; write one a line, name a prompt_file, or connect 'positive'")
    if clip is None:
        raise ValueError("prompts need a text encoder; connect the 'clip' of the checkpoint, or 'positive' instead")
    return Prompts(lines, [_encode(clip, line) for line in lines])


def _encode(clip: Any, prompt: str) -> Entry:
    host.throw_if_interrupted()
    return entries_of([host.encode_caption(clip, prompt)])[0]


def _read(file: str) -> str:
    if not file.strip():
        return ""
    path = host.input_folder() / Path(file.strip().strip("\"'")).expanduser()
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"prompt_file {path} cannot be read ({error}); give a text file in UTF-8, by an absolute path or one "
            f"inside ComfyUI's input folder ({host.input_folder()})"
        ) from error
