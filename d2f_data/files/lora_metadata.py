"""The metadata of LoRA files (strings by name), in three dialects.

``diff2flow.*``  how the LoRA was trained, so that a loader can convert the model in the same way
``modelspec.*``  ModelSpec 1.0.0 of Stability AI: architecture, title, date, hash of the tensors
``ss_*``         training settings under the names of kohya's sd-scripts, which model managers display
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from ..core import OBJECTIVES, PREDICTIONS, STARTS
from ..fingerprints import json_digest
from .json_schema import InvalidJsonError, Rule, number, parse_json, record, scalar, whole
from .names import shorten

FORMAT = 1
CONDITIONS = ("", "image")
KINDS = ("lora", "lokr", "loha", "full")  # the last one is a checkpoint of a network whose own weights were trained

Scalar = str | int | float | bool

_PREFIX = "diff2flow."
_FORMAT_KEY = _PREFIX + "format"
_DIGEST_KEY = _PREFIX + "sha256"

# Class of ComfyUI's model -> architecture of ModelSpec and base model version of sd-scripts.
_ARCHITECTURES = {
    "SD15": ("stable-diffusion-v1", "sd_v1"),
    "SD20": ("stable-diffusion-v2-512", "sd_v2"),
    "SDXL": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "SDXLRefiner": ("stable-diffusion-xl-v1-refiner", "sdxl_refiner_v1-0"),
}
# Prediction -> its name in ModelSpec, if any; whether sd-scripts call it v-parameterization; special architectures.
_PREDICTIONS = {
    "eps": ("epsilon", False, {}),
    "v": ("v", True, {"SD20": ("stable-diffusion-v2-768-v", "sd_v2_768_v")}),
    "x0": ("sample", False, {}),
    **dict.fromkeys(("edm", "flow", "velocity"), ("", False, {})),
}

# Training setting -> name in sd-scripts.
_SS_NAMES = {
    "learning_rate": "ss_learning_rate",
    "seed": "ss_seed",
    "optimizer": "ss_optimizer",
    "lr_schedule": "ss_lr_scheduler",
    "warmup_steps": "ss_lr_warmup_steps",
    "batch_size": "ss_total_batch_size",
    "accumulation": "ss_gradient_accumulation_steps",
    "checkpointing": "ss_gradient_checkpointing",
    "clip": "ss_max_grad_norm",
    "dropout": "ss_network_dropout",
    "caption_dropout": "ss_caption_dropout_rate",
    "items": "ss_num_train_images",
}
# Data type of the computation, or the widget that chose it -> its name in sd-scripts.
_MIXED_PRECISIONS = {
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "no",
    "fp16": "fp16",
    "bf16": "bf16",
    "fp32": "no",
}


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
    values["training"] = dict(facts.training)
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
        text = metadata.get(_PREFIX + one.name)
        if text is None and one.name == "condition":  # files that are older than image conditions
            continue
        if text is None:
            raise ValueError(f"its metadata lacks {_PREFIX + one.name}; use another copy of the file")
        values[one.name] = text if one.type is str else _parse(one.name, text)
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


_RULES: Mapping[str, Rule] = {
    "shift": number(0),
    "steps": whole(0),
    "rank": whole(0),
    "alpha": number(0),
    "training": record({}, rest=scalar),
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


def modelspec(facts: LoraFacts | None, title: str, digest: str, original_names: bool) -> dict[str, str]:
    """The ``modelspec.*`` metadata.

    Args:
        facts: how the LoRA was trained; None if unknown.
        title: name to display.
        digest: SHA-256 of the bytes of the tensors, in hexadecimal digits; left out if empty.
        original_names: whether the keys have the original block names (``input_blocks``) or those of diffusers.
    """
    # Names from the table of the specification: https://github.com/Stability-AI/ModelSpec
    implementation = "https://github.com/Stability-AI/generative-models" if original_names else "diffusers"
    spec = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "unknown/lora",
        "modelspec.implementation": implementation,
        "modelspec.title": title,
        "modelspec.date": datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None).isoformat(),
        **({"modelspec.hash_sha256": "0x" + digest} if digest else {}),
    }
    if facts is not None:
        spec["modelspec.architecture"] = _architecture(facts)[0] + ("" if facts.kind == "full" else "/lora")
        # ModelSpec has no name for a network that returns velocities.
        if OBJECTIVES[facts.objective].is_aligned and (name := _PREDICTIONS[facts.prediction][0]):
            spec["modelspec.prediction_type"] = name
    return spec


def _architecture(facts: LoraFacts) -> tuple[str, str]:
    known = {**_ARCHITECTURES, **_PREDICTIONS[facts.prediction][2]}
    return known.get(facts.base_model, (facts.base_model.lower() or "unknown", facts.base_model))


def kohya(facts: LoraFacts | None, title: str, digest: str) -> dict[str, str]:
    """The ``ss_*`` metadata; without ``facts`` only title and hash."""
    found = {"ss_output_name": title, "sshs_model_hash": digest}
    if facts is None:
        return found
    found |= {
        "ss_network_module": "networks.lora" if facts.kind == "lora" else "lycoris.kohya",
        "ss_network_dim": str(facts.rank or "Dynamic"),
        "ss_network_alpha": str(facts.alpha or "Dynamic"),
        "ss_base_model_version": _architecture(facts)[1],
        "ss_v2": str(facts.base_model == "SD20"),
        "ss_v_parameterization": str(_PREDICTIONS[facts.prediction][1]),
        "ss_steps": str(facts.steps),
        "ss_training_comment": f"Diff2Flow Kit, objective {facts.objective}",
    }
    if facts.kind != "lora":
        found["ss_network_args"] = json.dumps({"algo": facts.kind})
    # Earlier files have the widget only, of which "auto" says nothing.
    computed = facts.training.get("dtype", facts.training.get("precision"))
    if computed in _MIXED_PRECISIONS:
        found["ss_mixed_precision"] = _MIXED_PRECISIONS[str(computed)]
    return found | {theirs: str(facts.training[ours]) for ours, theirs in _SS_NAMES.items() if ours in facts.training}
