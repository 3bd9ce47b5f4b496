"""Compares what pictures show with what was asked for.

The solids of a prompt are assigned to those that were read, such that as many words as possible are right. Shares:

    solids     shape and colour of every named solid are right
    words      the same, with all words that the prompt names for a solid
    number     as many solids as named
    relation   the first stands to the second as asked; wrong where either was not found
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from .reader import Reading, Seen
from .scenes import Scene

NAMES = ("solids", "words", "number", "relation")


@dataclass(frozen=True)
class Wanted:
    """Words of each solid that a prompt names, and how the first stands to the second."""

    solids: tuple[dict[str, str], ...]
    relation: str


def wanted_of(scene: Scene) -> Wanted:
    """What `captions.plain_caption` asks for."""
    solids = [{name: getattr(solid, name) for name in ("shape", "color", "texture")} for solid in scene.solids]
    return Wanted(tuple(solids), scene.relation)


def right_words(wanted: dict[str, str], seen: Seen | None) -> int:
    """How many words of a solid are right."""
    return 0 if seen is None else sum(seen.words[name] == word for name, word in wanted.items())


def assigned(wanted: Wanted, reading: Reading) -> tuple[Seen | None, ...]:
    """The solid that was read for each named one, None where there are too few."""
    number = len(wanted.solids)
    seen = [*reading.solids, *[None] * max(0, number - len(reading.solids))]

    def right(order: tuple) -> int:
        return sum(map(right_words, wanted.solids, order))

    return max(permutations(seen, number), key=right)


def judged(wanted: Wanted, reading: Reading) -> dict[str, bool]:
    """Each of NAMES for one picture."""
    solids = assigned(wanted, reading)
    first, second = solids[:2]
    found = first is not None and second is not None
    return {
        "solids": all(_has(words, seen, ("shape", "color")) for words, seen in zip(wanted.solids, solids)),
        "words": all(_has(words, seen, tuple(words)) for words, seen in zip(wanted.solids, solids)),
        "number": len(reading.solids) == len(wanted.solids),
        "relation": found and first.relation_to(second) == wanted.relation,
    }


def shares(wanted: Sequence[Wanted], readings: Sequence[Reading]) -> dict[str, float]:
    """Fraction of pictures in which each of NAMES is right."""
    all_judged = [judged(*pair) for pair in zip(wanted, readings, strict=True)]
    return {name: sum(each[name] for each in all_judged) / len(all_judged) for name in NAMES}


def share_showing(readings: Sequence[Reading], name: str, word: str) -> float:
    """Fraction of pictures that show this word: in any solid, or as the style."""

    def shows(reading: Reading) -> bool:
        return reading.room["style"] == word if name == "style" else any(s.words[name] == word for s in reading.solids)

    return sum(map(shows, readings)) / len(readings)


def _has(wanted: dict[str, str], seen: Seen | None, names: tuple[str, ...]) -> bool:
    return seen is not None and all(seen.words[name] == wanted[name] for name in names)
