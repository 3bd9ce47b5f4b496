"""Reads JSON that may have been damaged or written by somebody else, and checks it before anything is done with it.

A rule is a function ``(value, where)`` that raises ``InvalidJsonError`` if the value is not what it should be. The
functions below make rules, and rules of lists and objects out of others:

    record({"format": whole(1), "shards": list_of(row(text(), whole(0)))}, {"note": text()}, rest=scalar)
"""

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MAX_DEPTH = 100  # levels of nesting; what the pack writes has at most a dozen
LARGEST = 2**63 - 1
_MAX_SHOWN = 60  # characters of a value in an error

Rule = Callable[[Any, str], None]


class InvalidJsonError(ValueError):
    """What is wrong with a JSON text, and where; the caller adds the name of the file and the remedy."""


def read_json(path: Path, rule: Rule, remedy: str) -> Any:
    """The checked content of a JSON file.

    Raises:
        ValueError: it cannot be read, or breaks the rule; names the file, the place, the value and the remedy.
    """
    try:
        return parse_json(path.read_bytes(), rule)
    except (OSError, InvalidJsonError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path} cannot be read as it is truncated or damaged ({reason}); {remedy}") from error


def parse_json(text: str | bytes, rule: Rule) -> Any:
    """The checked value of a JSON text.

    Raises:
        InvalidJsonError: it is not JSON in UTF-8, nested too deeply, or breaks the rule.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError among others
        raise InvalidJsonError(f"it is not JSON in UTF-8: {error}") from None
    _check_depth(value)
    rule(value, "")
    return value


def _check_depth(value: Any) -> None:
    """Raise InvalidJsonError if a value is nested too deeply for code that calls itself for every level."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for one in level if isinstance(one, dict | list) for part in _parts(one)]
        if not level:
            return
    raise _too_deep()


def _parts(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _too_deep() -> InvalidJsonError:
    return InvalidJsonError(f"it is nested more than {MAX_DEPTH} levels deep")


def fail(value: Any, where: str, wanted: str) -> None:
    """Raise InvalidJsonError for a value that is not what is wanted."""
    shown = json.dumps(value)
    shown = shown if len(shown) <= _MAX_SHOWN else shown[: _MAX_SHOWN - 3] + "..."
    raise InvalidJsonError(f"{where or 'the whole'} is {shown}, but must be {wanted}")


def text(one_of: tuple[str, ...] = ()) -> Rule:
    """A string; with ``one_of``, one of these."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or (one_of and value not in one_of):
            fail(value, where, "one of " + ", ".join(map(repr, one_of)) if one_of else "text")

    return check


def whole(low: int, high: int = LARGEST) -> Rule:
    """An integer from ``low`` to ``high``."""

    wanted = f"a whole number >= {low}" if high == LARGEST else f"a whole number from {low} to {high}"

    def check(value: Any, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            fail(value, where, wanted)

    return check


def number(low: float = -math.inf) -> Rule:
    """A finite number that is at least ``low``."""

    def check(value: Any, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            fail(value, where, "a number")
        if not (low <= value and abs(value) <= sys.float_info.max):
            fail(value, where, "a finite number" if low == -math.inf else f"a finite number >= {low:g}")

    return check


def scalar(value: Any, where: str) -> None:
    """Rule of a setting: text, a number, true, false or null."""
    if not (value is None or isinstance(value, str | int | float)):
        fail(value, where, "text, a number, true, false or null")


def anything(value: Any, where: str) -> None:
    """Rule that every value obeys."""


def list_of(rule: Rule) -> Rule:
    """A list of any length whose entries obey a rule."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            fail(value, where, "a list")
        for index, entry in enumerate(value):
            rule(entry, f"{where}[{index}]")

    return check


def row(*rules: Rule) -> Rule:
    """A list with one entry per rule."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) != len(rules):
            fail(value, where, f"a list of {len(rules)}")
        for index, (rule, entry) in enumerate(zip(rules, value, strict=True)):
            rule(entry, f"{where}[{index}]")

    return check


def record(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None, rest: Rule = anything) -> Rule:
    """An object with these keys.

    Args:
        required, optional: key -> rule.
        rest: rule of the values of all other keys.
    """
    known = {**(optional or {}), **required}

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            fail(value, where, "an object {...}")
        missing = [key for key in required if key not in value]
        if missing:
            raise InvalidJsonError(f"{where or 'the whole'} lacks the key {missing[0]!r}")
        for key, entry in value.items():
            known.get(key, rest)(entry, f"{where}.{key}" if where else repr(key))

    return check
