"""How a LoRA was trained, as the ``diff2flow.*`` metadata of its file, by which a loader converts the model.

What other programs read, ``modelspec.*`` and ``ss_*``, is written by the package ``metadata``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..core import OBJECTIVES, PREDICTIONS, STARTS
from ..fingerprints import json_digest
from .json_schema import InvalidJsonError, Rule, number, parse_json, record, scalar, text, whole
from .names import shorten

FORMAT = 1
CONDITIONS = ("", "image")
KINDS = ("lora", "lokr", "loha", "dora", "oft", "full")
"""The last one is a checkpoint of a network whose own weights were trained."""

Scalar = str | int | float | bool

_PREFIX = "diff2flow."
_FORMAT_KEY = _PREFIX + "format"
_DIGEST_KEY = _PREFIX + "sha256"


@dataclass(frozen=True)
class LoraFacts:
    """How a LoRA was trained.

    Attributes:
        objective: one of ``d2f_core.OBJECTIVES``.
        prediction: prediction type of the base model, one of ``d2f_core.PREDICTIONS``.
        schedule: fingerprint of the base model's noise schedule (``schedule_fingerprint``).
        start: where sampling starts on the flow matching model, "t_min" or "noise".
        shift: shift of the flow matching model, above 0.
        base: fingerprint of the base model's weights.
        base_model: ComfyUI's class of the base model, such as "SD15".
        steps: number of training steps, including those before the run was resumed.
        rank, alpha: rank and alpha of the adapters; 0 if they differ between layers.
        kind: one of ``KINDS``.
        training: all other settings of the training.
        condition: concat conditioning of the network, "" or "image".
        dataset: what the training set says about itself, of ``image_sets.report.facts``; empty if it says nothing.
    """

    objective: str
    prediction: str
    schedule: str
    start: str
    shift: float
    base: str
    base_model: str
    steps: int
    rank: int
    alpha: float
    kind: str
    training: Mapping[str, Scalar] = field(default_factory=dict, hash=False)
    condition: str = ""
    dataset: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("objective", OBJECTIVES),
            ("prediction", PREDICTIONS),
            ("start", STARTS),
            ("kind", KINDS),
            ("condition", CONDITIONS),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(repr, allowed))
                raise ValueError(f"unknown {name} {getattr(self, name)!r} of a LoRA; allowed are {choices}")
        for name in ("steps", "rank", "alpha"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} of a LoRA must not be below 0, got {getattr(self, name)}")
        if not self.shift > 0:
            raise ValueError(f"the shift of a LoRA must be above 0, got {self.shift}; 1 leaves the sigmas unchanged")


def write_facts(facts: LoraFacts) -> dict[str, str]:
    """The ``diff2flow.*`` metadata: strings unchanged, everything else as JSON, and the hash of all of it."""
    values = {one.name: getattr(facts, one.name) for one in fields(LoraFacts)}
    values |= {"training": dict(facts.training), "dataset": dict(facts.dataset)}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    written = {_FORMAT_KEY: str(FORMAT), **{_PREFIX + name: text for name, text in texts.items()}}
    return {**written, _DIGEST_KEY: _facts_digest(written)}


def _facts_digest(metadata: Mapping[str, str]) -> str:
    """Hash of all ``diff2flow.*`` metadata except itself."""
    own = {name: text for name, text in metadata.items() if name.startswith(_PREFIX) and name != _DIGEST_KEY}
    return json_digest(own)


def read_facts(metadata: Mapping[str, str]) -> LoraFacts | None:
    """The facts in a file's metadata; None if there are none.

    Raises:
        ValueError: they were written by a newer version, or are incomplete or invalid.
    """
    if _FORMAT_KEY not in metadata:
        return None
    _check_format(metadata[_FORMAT_KEY])
    values: dict[str, Any] = {}
    for one in fields(LoraFacts):
        found = metadata.get(_PREFIX + one.name)
        if found is None and one.name in ("condition", "dataset"):  # files that are older than these
            continue
        if found is None:
            raise ValueError(f"its metadata lacks {_PREFIX + one.name}; use another copy of the file")
        values[one.name] = found if one.type is str else _parse(one.name, found)
    facts = LoraFacts(**values)
    if metadata.get(_DIGEST_KEY, "") not in ("", _facts_digest(metadata)):  # files of earlier versions have none
        raise ValueError(f"its {_PREFIX}* metadata were changed or damaged (another SHA-256); copy the original again")
    return facts


def _check_format(text: str) -> None:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(
            f"its metadata says {_FORMAT_KEY} = {shorten(text)}, which is not a number; use another copy of the file"
        )
    if int(text[:9]) > FORMAT:
        raise ValueError(f"it has format {text}, but this version reads up to {FORMAT}; update Diff2Flow Kit")


_COUNTS = record({}, rest=whole(1))
_FOLDER = record({"images": whole(1), "rows": whole(1), "regularisation": whole(0, 1), "tags": _COUNTS})
_RULES: Mapping[str, Rule] = {
    "shift": number(0),
    "steps": whole(0),
    "rank": whole(0),
    "alpha": number(0),
    "training": record({}, rest=scalar),
    "dataset": record({}, {"folders": record({}, rest=_FOLDER), "buckets": _COUNTS, "trigger": text()}),
}


def _parse(name: str, text: str) -> Any:
    try:
        return parse_json(text, _RULES[name])
    except InvalidJsonError as error:
        raise ValueError(
            f"its metadata says {_PREFIX + name} = {shorten(text)}, which is invalid ({error}); use another copy of "
            "the file"
        ) from error


def stored_digest(metadata: Mapping[str, str]) -> str | None:
    """SHA-256 of the tensors' bytes as a file of the pack states it; None for files of other programs.

    Others compute ``sshs_model_hash`` in other ways, and some leave it as it was when they change the tensors.
    """
    if _FORMAT_KEY not in metadata:
        return None
    return metadata.get("modelspec.hash_sha256", "").removeprefix("0x") or metadata.get("sshs_model_hash") or None
