"""What a LoRA file says about itself, in three dialects of its metadata (strings by name).

``diff2flow.*``  how it was trained, so that a loader can convert the model as the training did
``modelspec.*``  ModelSpec 1.0.0 of Stability AI: architecture, title, date, hash of the tensors
``ss_*``         the training settings under the names of kohya's sd-scripts, which model managers show
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from ...d2f_core import OBJECTIVES, PREDICTIONS, STARTS

FORMAT = 1
CONDITIONS = ("", "image")
KINDS = ("lora", "lokr", "loha")

Scalar = str | int | float | bool

_PREFIX = "diff2flow."
_FORMAT_KEY = _PREFIX + "format"

# Class of the host's model -> architecture of ModelSpec and base model version of sd-scripts.
_ARCHITECTURES = {
    "SD15": ("stable-diffusion-v1", "sd_v1"),
    "SD20": ("stable-diffusion-v2-512", "sd_v2"),
    "SDXL": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "SDXLRefiner": ("stable-diffusion-xl-v1-refiner", "sdxl_refiner_v1-0"),
}
# Prediction -> its name in ModelSpec, whether sd-scripts call it a v-parameterization, and architectures of its own.
_PREDICTIONS = {
    "eps": ("epsilon", False, {}),
    "v": ("v", True, {"SD20": ("stable-diffusion-v2-768-v", "sd_v2_768_v")}),
    "x0": ("sample", False, {}),
}

# Setting of a training -> name in sd-scripts.
_SS_NAMES = {
    "learning_rate": "ss_learning_rate",
    "seed": "ss_seed",
    "optimizer": "ss_optimizer",
    "lr_schedule": "ss_lr_scheduler",
    "warmup_steps": "ss_lr_warmup_steps",
    "batch_size": "ss_total_batch_size",
    "accumulation": "ss_gradient_accumulation_steps",
    "checkpointing": "ss_gradient_checkpointing",
    "precision": "ss_mixed_precision",
    "clip": "ss_max_grad_norm",
    "dropout": "ss_network_dropout",
    "drop_condition": "ss_caption_dropout_rate",
    "items": "ss_num_train_images",
}


@dataclass(frozen=True)
class LoraFacts:
    """How a LoRA was trained.

    Attributes:
        objective: one of ``d2f_core.OBJECTIVES``.
        prediction: what the base model's network returns: "eps", "v" or "x0".
        schedule: fingerprint of the base model's noise schedule (``schedule_fingerprint``).
        start: "t_min" or "noise": where sampling starts on the converted model.
        shift: of the converted model, above 0.
        base: fingerprint of the base model's weights.
        base_model: the host's name for the kind of the base model, such as "SD15".
        steps: of training, over all resumes.
        rank, alpha: of the adapters; 0 where they differ.
        kind: "lora", "lokr" or "loha".
        training: all other settings.
        condition: what the network sees beside the noisy latent: "" or "image".
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
            raise ValueError(f"the shift of a LoRA must be above 0, got {self.shift}; 1 leaves the levels as they are")


def write_facts(facts: LoraFacts) -> dict[str, str]:
    """The ``diff2flow.*`` metadata: strings as they are, everything else as JSON."""
    values = {one.name: getattr(facts, one.name) for one in fields(LoraFacts)}
    values["training"] = dict(facts.training)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return {_FORMAT_KEY: str(FORMAT), **{_PREFIX + name: text for name, text in texts.items()}}


def read_facts(metadata: Mapping[str, str]) -> LoraFacts | None:
    """The facts in a file's metadata; None if there are none.

    Raises:
        ValueError: they were written by a newer version, are incomplete, or make no sense.
    """
    if _FORMAT_KEY not in metadata:
        return None
    _check_format(metadata[_FORMAT_KEY])
    values: dict[str, Any] = {}
    for one in fields(LoraFacts):
        text = metadata.get(_PREFIX + one.name)
        if text is None and one.name == "condition":  # files of before there were conditions
            continue
        if text is None:
            raise ValueError(f"its metadata lacks {_PREFIX + one.name}; save it again, or use another copy")
        values[one.name] = text if one.type is str else _parse(one.name, text)
    return LoraFacts(**values)


def _check_format(text: str) -> None:
    if not text.isdecimal():
        raise ValueError(f"its metadata says {_FORMAT_KEY} = {text!r}, which is no number; use another copy")
    if int(text) > FORMAT:
        raise ValueError(f"it has format {text}, this version reads up to {FORMAT}; update Diff2Flow Kit")


def _parse(name: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict if name == "training" else int | float):
        raise ValueError(f"its metadata says {_PREFIX + name} = {text!r}, which makes no sense; use another copy")
    return value


def modelspec(facts: LoraFacts | None, title: str, digest: str, original_names: bool) -> dict[str, str]:
    """The ``modelspec.*`` metadata.

    Args:
        facts: of the training, None if they are not known.
        title: name to show.
        digest: SHA-256 of the tensors' bytes, hexadecimal.
        original_names: whether the keys have the block names of the original networks or those of diffusers.
    """
    # Names after the schema's own table: https://github.com/Stability-AI/ModelSpec
    implementation = "https://github.com/Stability-AI/generative-models" if original_names else "diffusers"
    spec = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "unknown/lora",
        "modelspec.implementation": implementation,
        "modelspec.title": title,
        "modelspec.date": datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None).isoformat(),
        "modelspec.hash_sha256": "0x" + digest,
    }
    if facts is not None:
        spec["modelspec.architecture"] = _architecture(facts)[0] + "/lora"
        # The schema has no word for velocities.
        if OBJECTIVES[facts.objective].is_aligned:
            spec["modelspec.prediction_type"] = _PREDICTIONS[facts.prediction][0]
    return spec


def _architecture(facts: LoraFacts) -> tuple[str, str]:
    known = {**_ARCHITECTURES, **_PREDICTIONS[facts.prediction][2]}
    return known.get(facts.base_model, (facts.base_model.lower() or "unknown", facts.base_model))


def kohya(facts: LoraFacts | None, title: str, digest: str) -> dict[str, str]:
    """The ``ss_*`` metadata, as far as it is known."""
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
    return found | {theirs: str(facts.training[ours]) for ours, theirs in _SS_NAMES.items() if ours in facts.training}
