"""The trainer's sockets besides the model, and how its widgets and its options become a plan."""

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from ...d2f_data.training.plan import TrainingPlan
from .options.trainer_options import SOCKET, TrainerOptions, node_of
from .widgets import training_widgets


def training_sockets() -> list[io.Input]:
    """All optional; what most graphs connect comes first."""
    return [*_training_set(), *_sampling(), *_other_tasks(), *_validation()]


def _training_set() -> list[io.Input]:
    return [
        io.Latent.Input(
            "latents",
            optional=True,
            tooltip="What to learn: latents of one or more images, or a list of them (one per size). A noise "
            "mask weights the loss by position: white is learned.",
        ),
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip="Captions: one conditioning for all items, one per item, or one per latent of the list.",
        ),
        io.Conditioning.Input(
            "negative",
            optional=True,
            tooltip="Conditioning of the empty prompt: for caption dropout and for previews with guidance.",
        ),
    ]


def _sampling() -> list[io.Input]:
    return [
        io.Custom(SOCKET).Input(
            "options",
            optional=True,
            tooltip="All other settings, from Trainer Preset (Diff2Flow) and the settings nodes (Optimizer, Loss, "
            "LoRA, Memory, Saving Options), chained in any order. Without them, each is at its default.",
        ),
        io.Custom("D2F_SAMPLES").Input(
            "samples",
            optional=True,
            tooltip="Prompts of Sample Prompts (Diff2Flow), drawn before the first step, every 'preview_every' "
            "steps and at the end, in place of the previews of the training set.",
        ),
        io.Vae.Input("vae", optional=True, tooltip="Decodes previews; without it they are rough approximations."),
    ]


def _other_tasks() -> list[io.Input]:
    return [
        io.Custom("D2F_PAIRS").Input(
            "pairs",
            optional=True,
            tooltip="Reflow pairs instead of latents and positive: the model learns to take straight paths, "
            "for sampling in few steps, and the guidance of the pairs' teacher with them.",
        ),
        io.Latent.Input(
            "condition",
            optional=True,
            tooltip="Image conditions: latents concatenated with the noisy ones, such as the photo for a depth "
            "map. The same number, size and order as the latents. Needs a model with Add Image Condition.",
        ),
        io.Custom("LORA_MODEL").Input(
            "start_lora",
            optional=True,
            tooltip="LoRA to go on from, of this pack, kohya's or ComfyUI's own trainer: from another trainer "
            "node, or the output 'lora' of Load LoRA (Diff2Flow). Its layers keep their own rank. Connect the "
            "model without it: applied before the trainer as well, it would act twice.",
        ),
    ]


def _validation() -> list[io.Input]:
    return [
        io.Latent.Input(
            "validation_latents",
            optional=True,
            tooltip="Validation set: its loss shows when the LoRA begins to overfit.",
        ),
        io.Conditioning.Input("validation_positive", optional=True, tooltip="Captions of the validation latents."),
        io.Latent.Input("validation_condition", optional=True, tooltip="Image conditions of the validation latents."),
    ]


def text_encoder_socket() -> io.Input:
    """Behind all others, as it came last."""
    return io.Clip.Input(
        "clip",
        optional=True,
        tooltip="Connect it to train its text encoders (SD1.5, SD2.1, SDXL) together with the model: the CLIP that "
        "Training Set from Folder has, whose captions are then encoded anew in every step. Rank and learning rate are "
        "in LoRA Options (Diff2Flow). The CLIP itself is not changed.",
    )


def plan_of(widgets: Mapping[str, Any], options: TrainerOptions | None) -> TrainingPlan:
    """The plan of the trainer's own widgets and of what is connected to 'options'.

    Raises:
        ValueError: the trainer has no such widget; says which settings node has it.
    """
    for name in sorted(widgets.keys() - {one.id for one in training_widgets()}):
        node = node_of(name)
        remedy = f"connect '{node}', which has it, to 'options'" if node else "remove it from the prompt"
        raise ValueError(f"the trainer has no input {name!r}; {remedy}")
    return TrainingPlan(**(options or TrainerOptions()).complete(), **widgets)
