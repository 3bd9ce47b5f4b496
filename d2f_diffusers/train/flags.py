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
from d2f_data.image_sets.folder import CAPTION_SOURCES
from d2f_data.training.plan import AUTO_DENSITY, TrainingPlan

DEFAULTS: dict[str, Any] = {
    "run_name": "my_lora", "objective": "diff2flow", "steps": 500, "learning_rate": 1e-4, "batch_size": 1, "rank": 16,
    "targets": "attention_and_conv", "optimizer": "adamw", "lr_schedule": "constant", "warmup_steps": 0,
    "precision": "auto", "checkpointing": False, "caption_dropout": 0.0, "save_every": 250, "preview_every": 50,
    "resume": "auto", "seed": 0, "adapter": "lora", "alpha": 0.0, "rank_ratio": 0.0, "dropout": 0.0, "full_ends": False,
    "target_pattern": "", "density": AUTO_DENSITY, "density_mean": 0.0, "density_std": 1.0, "weight": "none",
    "loss": "mse", "huber_delta": 0.1, "weight_decay": 0.0, "clip": 1.0, "accumulation": 1, "ema": 0.0,
    "validate_every": 50, "preview_cfg": 1.0, "weight_gamma": 0.0,
}  # fmt: skip
"""The defaults of the node's widgets, but for ``compile``: here, networks are not compiled."""

# What settings.json says beside the widgets: the data and the model of that run, which a run here finds out itself.
SUBJECT = {
    "items", "data", "negative", "base", "prediction", "noise_schedule", "dtype", "steps_of_lr_schedule", "lr_curve",
    "timesteps", "compiled",
}  # fmt: skip
# What settings.json leaves out, as it may change between sessions, or is no setting with every weight.
_FREE = {"steps", "save_every", "preview_every", "preview_cfg", "validate_every", "resume", "weight_gamma"}
PRECISIONS = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}
"""``--mixed_precision`` -> the node's precision."""

# Flag -> setting of the plan.
_FLAGS: dict[str, tuple[str, Any]] = {
    "max_train_steps": ("steps", int),
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
    data: Path | None
    pairs: Path | None
    captions: str
    caption: str
    prefix: str
    resolution: int
    repeats: int
    step: int
    flip: bool
    cache: Path | None
    limit: int | None
    resume: str | None
    prompts: tuple[str, ...]
    report_to: str | None


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="d2f_diffusers.train", description=__doc__, allow_abbrev=False)
    top.add_argument("--pretrained_model_name_or_path", required=True, help="a diffusers pipeline: folder or hub name")
    top.add_argument("--settings", type=Path, help="settings.json of a run of the training node")
    top.add_argument("--output_dir", type=Path, required=True, help="for checkpoints, LoRA files and pictures")
    top.add_argument("--train_data_dir", type=Path, help="folder of images with captions, masks and aspect buckets")
    top.add_argument("--pairs_dir", type=Path, help="set of reflow pairs, instead of images")
    top.add_argument("--captions", choices=CAPTION_SOURCES, default="auto", help="where captions come from")
    top.add_argument("--caption", default="", help="caption of images that have none")
    top.add_argument("--prefix", default="", help="text before every caption, such as a trigger word")
    top.add_argument("--resolution", type=int, default=512, help="side of the square bucket, in pixels")
    top.add_argument("--repeats", type=int, default=1, help="rows per image")
    top.add_argument("--bucket_step", type=int, default=64, help="sides of aspect buckets are multiples of it")
    top.add_argument("--random_flip", action="store_true", help="mirror half of the images")
    top.add_argument("--cache_dir", type=Path, help="of encoded images; default: cache in the output folder")
    top.add_argument("--gradient_accumulation_steps", type=int, help="batches per step and process")
    top.add_argument("--gradient_checkpointing", action="store_true", default=None, help="recompute blocks")
    top.add_argument("--mixed_precision", choices=PRECISIONS, help="data type of the network's computation")
    top.add_argument("--use_ema", action="store_true", help="average the weights, at --ema_decay or 0.999")
    top.add_argument("--checkpoints_total_limit", type=int, help="how many checkpoints are kept")
    top.add_argument("--resume_from_checkpoint", metavar="latest|DIR", help="go on from a checkpoint")
    top.add_argument("--validation_prompt", action="append", default=[], help="a picture of it at each checkpoint")
    top.add_argument("--report_to", help="tensorboard, wandb, ...: a tracker of accelerate's")
    top.add_argument("--targets", help=f"layers: {', '.join(TARGETS)}, or patterns of module paths")
    for flag, (_, kind) in _FLAGS.items():
        top.add_argument(f"--{flag}", type=kind)
    for flag, (_, table) in _CHOICES.items():
        top.add_argument(f"--{flag}", choices=list(table))
    top.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting of the node")
    return top


def read(arguments: Sequence[str] | None, processes: int = 1) -> tuple[TrainingPlan, Run]:
    """The plan and the run of a command line; the plan's accumulation counts the batches of all processes.

    Raises:
        ValueError: a setting is unknown, or of another version; names it.
    """
    options = parser().parse_args(arguments)
    values = {**DEFAULTS, **(_of_file(options.settings) if options.settings else {})}
    if options.settings is None:
        values["accumulation"] = processes
    values |= _of_flags(options, processes) | _of_set(options.set)
    plan = TrainingPlan(**values)
    if plan.accumulation < processes:
        raise ValueError(
            f"{processes} processes train, but {options.settings} has accumulation {plan.accumulation}, the batches "
            "per step of all processes; add --gradient_accumulation_steps 1 for a batch per process and step, so that "
            f"a step has {processes} times as many items, or start fewer processes"
        )
    plan.check(has_negative=True)
    run = Run(
        options.pretrained_model_name_or_path,
        options.output_dir,
        options.train_data_dir,
        options.pairs_dir,
        options.captions,
        options.caption,
        options.prefix,
        options.resolution,
        options.repeats,
        options.bucket_step,
        options.random_flip,
        options.cache_dir,
        options.checkpoints_total_limit,
        options.resume_from_checkpoint,
        tuple(options.validation_prompt),
        options.report_to,
    )
    if (run.data is None) == (run.pairs is None):
        raise ValueError("give either --train_data_dir, a folder of images, or --pairs_dir, a set of reflow pairs")
    return plan, run


def _of_file(path: Path) -> dict[str, Any]:
    given = read_json(path, CONFIG_RULE, "use the settings.json of a run in output/diff2flow/runs")
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
    given |= {"targets": options.targets, "checkpointing": options.gradient_checkpointing}
    if options.targets is not None:
        given["target_pattern"] = ""
    if options.mixed_precision is not None:
        given["precision"] = PRECISIONS[options.mixed_precision]
    if options.gradient_accumulation_steps is not None:
        given["accumulation"] = options.gradient_accumulation_steps * processes
    if options.use_ema and options.ema_decay is None:
        given["ema"] = 0.999
    return {name: value for name, value in given.items() if value is not None}


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
