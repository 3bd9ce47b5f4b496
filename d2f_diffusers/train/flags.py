"""The command line of the training: the settings of a run of the node, overruled by flags.

The names of the flags are those of diffusers' ``train_text_to_image_lora.py`` wherever it has them. What neither
``--settings`` nor a flag says is at the default of the training node's widget. ``--set NAME=VALUE`` reaches every other
setting of the node by its name.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2f_core import OBJECTIVES, OPTIMIZERS, SCHEDULES, TARGETS
from d2f_data.files.json_schema import read_json
from d2f_data.files.training_state import CONFIG_RULE
from d2f_data.training.plan import AUTO_DENSITY, TrainingPlan

from .data.source import DataSource, add_arguments, data_source

DEFAULTS: dict[str, Any] = {
    "run_name": "my_lora", "objective": "diff2flow", "steps": 500, "learning_rate": 1e-4, "batch_size": 1, "rank": 16,
    "targets": "attention_and_conv", "optimizer": "adamw", "lr_schedule": "constant", "warmup_steps": 0,
    "precision": "auto", "checkpointing": False, "caption_dropout": 0.0, "save_every": 250, "preview_every": 50,
    "resume": "auto", "seed": 0, "adapter": "lora", "alpha": 0.0, "rank_ratio": 0.0, "dropout": 0.0, "full_ends": False,
    "target_pattern": "", "density": AUTO_DENSITY, "density_mean": 0.0, "density_std": 1.0, "weight": "none",
    "loss": "mse", "huber_delta": 0.1, "weight_decay": 0.0, "clip": 1.0, "accumulation": 1, "ema": 0.0,
    "validate_every": 50, "preview_cfg": 1.0, "weight_gamma": 0.0,
    "t_low": 0.0, "t_high": 1.0, "epochs": 0, "layer_rules": "",
}  # fmt: skip
"""The defaults of the node's widgets, but for ``compile`` and ``offload``, as networks stay as diffusers has them,
and for the text encoders, which are not trained here."""

FULL = "full"
"""The "adapter" of a run that trains the network's own weights."""
_FULL_DEFAULTS = {"run_name": "my_model", "learning_rate": 1e-5}
# Settings that a LoRA alone has, and the flags for them.
_OF_LORA = ("rank", "targets", "alpha", "rank_ratio", "dropout", "full_ends", "target_pattern", "layer_rules")

# What settings.json says beside the widgets: the data and the model of that run, which a run here finds out itself.
SUBJECT = {
    "items", "data", "negative", "base", "prediction", "noise_schedule", "dtype", "steps_of_lr_schedule", "lr_curve",
    "timesteps", "compiled",
}  # fmt: skip
# What settings.json leaves out, as it may change between sessions, or is no setting with every weight.
_FREE = {"steps", "save_every", "preview_every", "preview_cfg", "validate_every", "resume", "weight_gamma"} | {
    "t_low", "t_high", "epochs", "layer_rules",
}  # fmt: skip
PRECISIONS = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}
"""``--mixed_precision`` -> the node's precision."""

# Flag -> setting of the plan.
_FLAGS: dict[str, tuple[str, Any]] = {
    "max_train_steps": ("steps", int),
    "num_train_epochs": ("epochs", int),
    "learning_rate": ("learning_rate", float),
    "train_batch_size": ("batch_size", int),
    "rank": ("rank", int),
    "lr_warmup_steps": ("warmup_steps", int),
    "checkpointing_steps": ("save_every", int),
    "seed": ("seed", int),
    "max_grad_norm": ("clip", float),
    "adam_weight_decay": ("weight_decay", float),
    "proportion_empty_prompts": ("caption_dropout", float),
    "ema_decay": ("ema", float),
    "run_name": ("run_name", str),
}
_CHOICES = {
    "objective": ("objective", OBJECTIVES),
    "optimizer": ("optimizer", OPTIMIZERS),
    "lr_scheduler": ("lr_schedule", SCHEDULES),
}


@dataclass(frozen=True)
class Run:
    """What a command line asks for beside the plan; see the flags' help."""

    model: str
    output: Path
    data: DataSource
    limit: int | None
    resume: str | None
    prompts: tuple[str, ...]
    report_to: str | None


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="d2f_diffusers.train", description=__doc__, allow_abbrev=False)
    top.add_argument("--pretrained_model_name_or_path", required=True, help="a diffusers pipeline: folder or hub name")
    top.add_argument("--settings", type=Path, help="settings.json of a run of the training node")
    top.add_argument("--output_dir", type=Path, required=True, help="for checkpoints, what is learned, and pictures")
    add_arguments(top)
    top.add_argument("--gradient_accumulation_steps", type=int, help="batches per step and process")
    top.add_argument("--gradient_checkpointing", action="store_true", default=None, help="recompute blocks")
    top.add_argument("--mixed_precision", choices=PRECISIONS, help="data type of the network's computation")
    top.add_argument("--use_ema", action="store_true", help="average the weights, at --ema_decay or 0.999")
    top.add_argument("--checkpoints_total_limit", type=int, help="how many checkpoints are kept")
    top.add_argument("--resume_from_checkpoint", metavar="latest|DIR", help="go on from a checkpoint")
    top.add_argument("--validation_prompt", action="append", default=[], help="a picture of it at each checkpoint")
    top.add_argument("--report_to", help="tensorboard, wandb, ...: a tracker of accelerate's")
    top.add_argument("--train", choices=("lora", FULL), help="what is trained: a LoRA, or all weights of the UNet")
    top.add_argument("--targets", help=f"layers: {', '.join(TARGETS)}, or patterns of module paths")
    for flag, (_, kind) in _FLAGS.items():
        top.add_argument(f"--{flag}", type=kind)
    for flag, (_, table) in _CHOICES.items():
        top.add_argument(f"--{flag}", choices=list(table))
    top.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting of the node")
    return top


def read(arguments: Sequence[str] | None, processes: int = 1, precision: str = "no") -> tuple[TrainingPlan, Run]:
    """The plan and the run of a command line; the plan's accumulation counts the batches of all processes.

    Args:
        arguments: the command line.
        processes: how many train together.
        precision: accelerate's mixed precision, where neither the settings nor a flag say another one.

    Raises:
        ValueError: a setting is unknown, or of another version, or contradicts another; names it.
    """
    options = parser().parse_args(arguments)
    given = _of_flags(options, processes) | _of_set(options.set)
    values = {**DEFAULTS, **(_FULL_DEFAULTS if given.get("adapter") == FULL else {})}
    values |= _of_file(options.settings) if options.settings else {"accumulation": processes}
    values |= given
    if values["precision"] == "auto" and precision != "no":
        values["precision"] = PRECISIONS.get(precision, "auto")
    _check_full(values["adapter"], given)
    plan = TrainingPlan(**values)
    if plan.accumulation < processes:
        raise ValueError(
            f"{processes} processes train, but {options.settings} has accumulation {plan.accumulation}, the batches "
            "per step of all processes; add --gradient_accumulation_steps 1 for a batch per process and step, so that "
            f"a step has {processes} times as many items, or start fewer processes"
        )
    plan.check(has_negative=True, has_pairs=bool(options.pairs_dir))
    run = Run(
        options.pretrained_model_name_or_path,
        options.output_dir,
        data_source(options),
        options.checkpoints_total_limit,
        options.resume_from_checkpoint,
        tuple(options.validation_prompt),
        options.report_to,
    )
    _check_images(run, plan)
    return plan, run


def _check_images(run: Run, plan: TrainingPlan) -> None:
    """Raise ValueError for what cannot be done with image conditions."""
    if run.data.images is not None and plan.adapter == FULL:
        raise ValueError(
            "--train full and --conditioning_data_dir do not go together: programs would open the checkpoint as "
            "another kind of model (InstructPix2Pix); train a LoRA, which says what it is"
        )
    if run.data.images is not None and run.prompts:
        raise ValueError(
            "--validation_prompt draws pictures without an image, but this network takes one; leave it out, and look "
            "at the LoRA in ComfyUI (Depth from Image)"
        )


def _of_file(path: Path) -> dict[str, Any]:
    given = read_json(path, CONFIG_RULE, "use the settings.json of a run in output/diff2flow/runs")
    if "text_encoders" in given:
        raise ValueError(
            f"{path} is of a run that trains text encoders, which only the node does; go on with it there, or start "
            "a run without 'clip'"
        )
    unknown = sorted(given.keys() - DEFAULTS.keys() - SUBJECT)
    missing = sorted(DEFAULTS.keys() - given.keys() - _FREE)
    if unknown or missing:
        what = f"has the setting {unknown[0]!r}" if unknown else f"lacks the setting {missing[0]!r}"
        raise ValueError(
            f"{path} {what}, so it is of another version of Diff2Flow Kit or of something else; use the version that "
            "wrote it, or flags instead of --settings"
        )
    steps = {"steps": given["steps_of_lr_schedule"]} if given.get("steps_of_lr_schedule") else {}
    return {**steps, **{name: value for name, value in given.items() if name in DEFAULTS}}


def _of_flags(options: argparse.Namespace, processes: int) -> dict[str, Any]:
    given = {setting: getattr(options, flag) for flag, (setting, _) in {**_FLAGS, **_CHOICES}.items()}
    given |= {"targets": options.targets, "checkpointing": options.gradient_checkpointing, "adapter": options.train}
    if options.targets is not None:
        given["target_pattern"] = ""
    if options.mixed_precision is not None:
        given["precision"] = PRECISIONS[options.mixed_precision]
    if options.gradient_accumulation_steps is not None:
        given["accumulation"] = options.gradient_accumulation_steps * processes
    if options.use_ema and options.ema_decay is None:
        given["ema"] = 0.999
    return {name: value for name, value in given.items() if value is not None}


def _check_full(adapter: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError for flags of a LoRA where all weights are trained."""
    wrong = [name for name in _OF_LORA if given.get(name)]
    if adapter == FULL and wrong:
        raise ValueError(
            f"{wrong[0]} is a setting of a LoRA, but --train full trains all weights of the UNet; leave it out, or "
            "train a LoRA"
        )


def _of_set(entries: Sequence[str]) -> dict[str, Any]:
    kinds: Mapping[str, Any] = {name: type(value) for name, value in DEFAULTS.items()}
    found = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if name not in kinds or not equals:
            raise ValueError(f"--set {entry}: write NAME=VALUE with a name of {', '.join(kinds)}")
        try:
            found[name] = text if kinds[name] is str else kinds[name](json.loads(text.lower()))
        except ValueError:
            wanted = f"{kinds[name].__name__}, such as {DEFAULTS[name]}"
            raise ValueError(f"--set {entry}: {name} must be of type {wanted}") from None
    return found
