"""Rank, alpha and learning rate of some layers: one rule per line, as kohya's and LyCORIS' presets have them.

    *.attn2.*           rank=32 alpha=16
    conv:input_blocks.* rank=4 rate=0.5     # the learning rate, times a half
    middle_block.*      rank=0              # no adapters there

A pattern is matched against module paths with * and ?, and may begin with ``linear:`` or ``conv:``. The first rule that
names a layer counts; what it does not say is as for all other layers.
"""

import fnmatch
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from .adapter import Layer, is_conv, is_linear


@dataclass(frozen=True)
class LayerRule:
    """What some layers have of their own.

    Attributes:
        pattern: of their module paths.
        rank: of their adapters; 0 for no adapters, None for the rank of all.
        alpha: of their adapters; None for the alpha of all.
        rate: factor of their learning rate.
    """

    pattern: str
    rank: int | None = None
    alpha: float | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 0:
            raise ValueError(f"rank must be at least 0, got {self.rank}; 0 leaves the layers out")
        for name in ("alpha", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, got {value:g}; rank=0 leaves the layers out")


_KINDS = {"rank": int, "alpha": float, "rate": float}


def parse_layer_rules(text: str) -> tuple[LayerRule, ...]:
    """The rules of a text, see the module's head.

    Raises:
        ValueError: a line is none; names it, what is allowed and an example.
    """
    lines = [line.partition("#")[0].split() for line in text.splitlines()]
    return tuple(_rule(words) for words in lines if words)


def _rule(words: list[str]) -> LayerRule:
    pattern, *settings = words
    rule = LayerRule(pattern)
    try:
        if not settings or "=" in pattern:
            raise ValueError("it needs a pattern and at least one of rank, alpha and rate")
        for setting in settings:
            name, equals, value = setting.partition("=")
            if name not in _KINDS or not equals:
                raise ValueError(f"{setting!r} is not one of rank=, alpha= and rate=")
            rule = replace(rule, **{name: _number(name, value)})  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(
            f"layer_rules, line {' '.join(words)!r}: {error}; write a pattern of module paths and what its layers "
            "have, such as: *.attn2.* rank=32 alpha=16 rate=0.5"
        ) from None
    return rule


def _number(name: str, text: str) -> float:
    try:
        return _KINDS[name](text)
    except ValueError:
        wanted = "a whole number" if _KINDS[name] is int else "a number"
        raise ValueError(f"{name} must be {wanted}, got {text!r}") from None


def rule_of(rules: Collection[LayerRule], path: str, layer: Layer) -> LayerRule:
    """The first rule that names a layer; one that says nothing if there is none."""
    return next((rule for rule in rules if matches(rule.pattern, path, layer)), LayerRule("*"))


def check_rules(rules: Collection[LayerRule], layers: Mapping[str, Layer]) -> None:
    """Raise ValueError that names the patterns that name none of the layers that are trained."""
    idle = [r.pattern for r in rules if not any(matches(r.pattern, path, layer) for path, layer in layers.items())]
    if idle:
        examples = ", ".join(list(layers)[:3])
        raise ValueError(
            f"layer_rules: no layer that is trained is named by {', '.join(idle)}; patterns match module paths such as "
            f"{examples}, with * and ?; remove the line, or choose more layers in 'targets'"
        )


def matches(pattern: str, path: str, layer: Layer) -> bool:
    """Whether a pattern, with or without ``linear:`` or ``conv:``, names a layer."""
    kind, _, rest = pattern.rpartition(":")
    right_kind = {"": True, "linear": is_linear(layer), "conv": is_conv(layer)}.get(kind, False)
    return right_kind and fnmatch.fnmatchcase(path, rest)
