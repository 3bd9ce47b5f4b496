"""Sample prompts: one per line, with options as kohya's trainers read them.

    a photo of sks dog on a beach --n blurry, text --w 512 --h 768 --s 20 --l 5 --d 42

An option ends where the next one begins. Empty lines and lines that start with # are left out. What a line does not say
is that of the defaults.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

MOST_PROMPTS = 32


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt and how it is sampled.

    Attributes:
        text, negative: the prompt, and the negative prompt, which needs ``cfg`` other than 1.
        width, height: size in pixels.
        steps: Euler steps.
        cfg: guidance scale; 1 disables guidance.
        seed: seed of the noise.
        grid, shift, mean, std: of ``flow_grid``.
    """

    text: str = ""
    negative: str = ""
    width: int = 512
    height: int = 512
    steps: int = 20
    cfg: float = 7.0
    seed: int = 0
    grid: str = "uniform"
    shift: float = 1.0
    mean: float = 0.0
    std: float = 1.0

    @property
    def identity(self) -> str:
        """All of it in one line of ASCII; equal ones are the same picture of the same weights."""
        return json.dumps(asdict(self), sort_keys=True)


class Option(NamedTuple):
    """An option of a line: a field of ``SamplePrompt``, and the numbers that it allows; a text without ``most``."""

    field: str
    least: float = 0
    most: float | None = None
    whole: bool = True


OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "n": Option("negative"),
        "w": Option("width", 64, 8192),
        "h": Option("height", 64, 8192),
        "s": Option("steps", 1, 1000),
        "l": Option("cfg", 0, 100, whole=False),
        "d": Option("seed", 0, 0xFFFFFFFFFFFFFFFF),
    }
)
"""Letter of an option -> what it sets."""

_START = re.compile(r"(?:^|\s+)--(?=\w)")


def parse_prompts(text: str, defaults: SamplePrompt | None = None, multiple: int = 8) -> list[SamplePrompt]:
    """The prompts of a text.

    Args:
        text: lines as in the module's head.
        defaults: what a line does not say.
        multiple: widths and heights are multiples of this number of pixels.

    Raises:
        ValueError: there is no prompt, or there are too many; or an option is unknown, given twice, or has a value that
            is not allowed: names the line, the option and the remedy.
    """
    found: list[SamplePrompt] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            prompt = _parse(line.strip(), defaults or SamplePrompt(), f"line {number} of 'prompts'")
            found.append(_checked(prompt, multiple, f"line {number} of 'prompts'"))
    if not found:
        raise ValueError("there are no prompts; write one per line into 'prompts', such as: a red cube --w 512 --d 42")
    if len(found) > MOST_PROMPTS:
        raise ValueError(f"'prompts' has {len(found)} prompts; {MOST_PROMPTS} are allowed, remove some")
    return found


def _parse(line: str, defaults: SamplePrompt, where: str) -> SamplePrompt:
    words, *options = _START.split(line)
    given: dict[str, Any] = {}
    for option in options:
        name, _, value = re.sub(r"^(\w+)=", r"\1 ", option).partition(" ")
        rule = OPTIONS.get(name.lower())
        if rule is None:
            known = ", ".join(f"--{letter} ({one.field})" for letter, one in OPTIONS.items())
            raise ValueError(f"{where} has the unknown option --{name}; allowed are {known}")
        if rule.field in given:
            raise ValueError(f"{where} has --{name} twice; keep one of them")
        given[rule.field] = _value(rule, value.strip(), f"{where}: --{name} ({rule.field})")
    return replace(defaults, text=words.strip(), **given)


def _value(rule: Option, value: str, what: str) -> str | float:
    """The value of an option. Raises ValueError unless it is allowed."""
    if rule.most is None:
        return value
    try:
        number = int(value) if rule.whole else float(value)
    except ValueError:
        kind = "whole number" if rule.whole else "number"
        raise ValueError(f"{what} is {value!r}; it must be a {kind} from {rule.least:g} to {rule.most}") from None
    if not math.isfinite(number) or not rule.least <= number <= rule.most:
        raise ValueError(f"{what} is {value}; allowed are {rule.least:g} to {rule.most}")
    return number


def _checked(prompt: SamplePrompt, multiple: int, where: str) -> SamplePrompt:
    for side in ("width", "height"):
        pixels = getattr(prompt, side)
        if pixels % multiple:
            near = max(multiple, round(pixels / multiple) * multiple)
            raise ValueError(f"{where}: {side} is {pixels}; it must be a multiple of {multiple}, such as {near}")
    return prompt
