"""The ``ss_*`` metadata: training settings under the names of kohya's sd-scripts, which LoRA managers show."""

import json
from collections.abc import Mapping
from typing import Any

from ..lora_metadata import LoraFacts
from .modelspec import PREDICTION_NAMES, architecture_of

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
    "max_steps": "ss_max_train_steps",
    "batches_per_epoch": "ss_num_batches_per_epoch",
    "num_epochs": "ss_num_epochs",
    "epoch": "ss_epoch",
}
# The same, if text encoders are trained as well.
_SS_RATES = {"ss_unet_lr": "learning_rate", "ss_text_encoder_lr": "text_encoder_lr"}
# Kinds that LyCORIS has under another name -> its arguments.
_LYCORIS: Mapping[str, Mapping[str, Any]] = {
    "dora": {"algo": "lora", "dora_wd": True, "wd_on_output": False},
    "oft": {"algo": "diag-oft"},
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


def kohya(facts: LoraFacts | None, title: str, digest: str) -> dict[str, str]:
    """The ``ss_*`` metadata; without ``facts`` only title and hash."""
    found = {"ss_output_name": title, "sshs_model_hash": digest}
    if facts is None:
        return found
    found |= {
        "ss_network_module": "networks.lora" if facts.kind == "lora" else "lycoris.kohya",
        "ss_network_dim": str(facts.rank or "Dynamic"),
        "ss_network_alpha": str(facts.alpha or "Dynamic"),
        "ss_base_model_version": architecture_of(facts)[1],
        "ss_v2": str(facts.base_model == "SD20"),
        "ss_v_parameterization": str(PREDICTION_NAMES[facts.prediction][1]),
        "ss_steps": str(facts.steps),
        "ss_training_comment": f"Diff2Flow Kit, objective {facts.objective}",
    }
    if facts.kind != "lora":
        found["ss_network_args"] = json.dumps(_LYCORIS.get(facts.kind, {"algo": facts.kind}))
    # Earlier files have the widget only, of which "auto" says nothing.
    computed = facts.training.get("dtype", facts.training.get("precision"))
    if computed in _MIXED_PRECISIONS:
        found["ss_mixed_precision"] = _MIXED_PRECISIONS[str(computed)]
    found |= {theirs: str(facts.training[ours]) for ours, theirs in _SS_NAMES.items() if ours in facts.training}
    if "text_encoder_lr" in facts.training:
        rates = {name: str(facts.training[key]) for name, key in _SS_RATES.items() if key in facts.training}
        found |= {**rates, "ss_network_train_unet_only": "False"}
    return found | _dataset(facts.dataset)


def _dataset(dataset: Mapping[str, Any]) -> dict[str, str]:
    """Folders, tag frequencies and buckets; nothing for a set that does not know them."""
    if "folders" not in dataset:
        return {}
    folders: Mapping[str, Mapping[str, Any]] = dataset["folders"]
    dirs: list[dict[str, Any]] = [{}, {}]  # of training and of regularisation images
    for name, folder in folders.items():
        repeats = max(1, round(folder["rows"] / folder["images"]))
        dirs[folder["regularisation"]][name] = {"n_repeats": repeats, "img_count": folder["images"]}
    rows = [sum(one["rows"] for one in folders.values() if one["regularisation"] == kind) for kind in (0, 1)]
    sizes = [
        {"resolution": list(map(int, size.split("x"))), "count": count}
        for size, count in dataset.get("buckets", {}).items()
    ]
    return {
        "ss_tag_frequency": json.dumps({name: folder["tags"] for name, folder in folders.items()}),
        "ss_dataset_dirs": json.dumps(dirs[0]),
        "ss_reg_dataset_dirs": json.dumps(dirs[1]),
        "ss_num_train_images": str(rows[0]),
        "ss_num_reg_images": str(rows[1]),
        "ss_enable_bucket": "True",
        "ss_bucket_info": json.dumps({"buckets": {str(number): size for number, size in enumerate(sizes)}}),
    }
