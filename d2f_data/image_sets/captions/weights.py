"""Which captions ComfyUI's prompt syntax would change: weights in brackets, escaped brackets, embeddings.

A group is a bracket that is opened outside of any other and closed again, or is closed at least once at the end of the
text; a closing bracket without an opening one lowers the level for good, so that ``smile :)`` is text, and so is what
follows it in brackets.
"""

import re

_EMBEDDING = re.compile(r"(?:^|(?<=\s))embedding:")
_ESCAPED = re.compile(r"\\[()]")


def has_prompt_syntax(caption: str) -> bool:
    """Whether the caption as a prompt is another text than the caption as it is written."""
    return bool(_EMBEDDING.search(caption) or _ESCAPED.search(caption)) or _has_group(caption)


def escaped(caption: str) -> str:
    """The caption with its escaped brackets escaped once more: a prompt parser takes one backslash away."""
    return _ESCAPED.sub(lambda match: "\\" + match.group(), caption)


def _has_group(text: str) -> bool:
    level = 0
    for character in text:
        if character == "(":
            level += 1
        elif character == ")":
            level -= 1
            if level == 0:
                return True
    return level > 0 and text.endswith(")")
