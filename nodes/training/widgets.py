"""Widgets of the trainer; names and meaning are those of ``TrainingPlan``."""

from collections.abc import Iterable

from comfy_api.latest import io

from ...d2f_core import DENSITIES, OBJECTIVES, OPTIMIZERS, SCHEDULES, TARGETS, WEIGHTS
from ...d2f_data.files.run_folder import RESUME
from .. import host
from ..widgets import seed_input

LOSSES = ("mse", "huber")


def training_widgets() -> list[io.Input]:
    """All widgets, those that are rarely needed last and marked as advanced."""
    return [*_run(), *_adapter(), *_optimizer(), *_memory(), *_keeping(), *_advanced()]


def _run() -> list[io.Input]:
    return [
        io.String.Input(
            "run_name",
            default="my_lora",
            tooltip="Name of the run. Its state is kept in output/diff2flow/runs, its LoRA files in "
            "output/loras/diff2flow.",
        ),
        io.Combo.Input(
            "objective",
            options=list(OBJECTIVES),
            default="diff2flow",
            tooltip="What is learned. diff2flow: the velocity, read off the network's prediction (the paper's). "
            "diffusion: the network's own eps or v. naive_fm: the raw output as velocity, the paper's baseline, for "
            "comparison.",
        ),
        _int(
            "steps",
            500,
            1,
            1_000_000,
            "Steps of the whole run. A run that is continued counts on; with an "
            "lr_schedule other than constant, another number is another run.",
        ),
        _float("learning_rate", 1e-4, 1e-7, 10.0, 1e-5, "Full rate, reached after the warm-up. 1 for prodigy.", 1e-7),
        _int("batch_size", 1, 1, 1024, "Items a forward pass. Items of different sizes are never mixed in one."),
    ]


def _adapter() -> list[io.Input]:
    return [
        _int("rank", 16, 1, 1024, "Size of the adapters; the file grows with it. 4 to 64 is usual."),
        io.Combo.Input(
            "targets",
            options=list(TARGETS),
            default="attention_and_conv",
            tooltip="Layers that get adapters. attention: q, k, v and output projection. attention_and_conv: q, k, v "
            "and every convolution, the paper's choice. all: every linear and convolution layer.",
        ),
    ]


def _optimizer() -> list[io.Input]:
    return [
        io.Combo.Input(
            "optimizer",
            options=list(OPTIMIZERS),
            default="adamw",
            tooltip="adamw and adafactor (less memory) are always there; adamw_8bit needs bitsandbytes, prodigy needs "
            "prodigyopt, schedule_free needs schedulefree.",
        ),
        io.Combo.Input(
            "lr_schedule",
            options=list(SCHEDULES),
            default="constant",
            tooltip="How the learning rate goes on after the warm-up. All but constant end at step 'steps'.",
        ),
        _int("warmup_steps", 0, 0, 100_000, "Steps over which the rate rises from 0."),
    ]


def _memory() -> list[io.Input]:
    return [
        io.Combo.Input(
            "precision",
            options=list(host.COMPUTE_DTYPES),
            default="auto",
            tooltip="Type that the model computes in; adapters are float32 always. auto: the model's own. bf16 is "
            "safest on new GPUs; fp16 scales its gradients. Another type than the model's needs a copy of its weights.",
        ),
        io.Boolean.Input(
            "checkpointing",
            default=False,
            tooltip="Gradient checkpointing: computes blocks again in the backward pass. About a third slower, for a "
            "fraction of the memory. Switch on for SDXL below 24 GB and for SD1.5 below 8 GB.",
        ),
        _float("caption_dropout", 0.0, 0.0, 0.99, 0.01, "Share of items trained without caption; needs 'negative'."),
    ]


def _keeping() -> list[io.Input]:
    return [
        _int("save_every", 250, 0, 100_000, "Steps between saves of state and LoRA; 0 saves at the end and on cancel."),
        _int("preview_every", 50, 0, 100_000, "Steps between preview pictures (10 model steps each); 0 draws none."),
        io.Combo.Input(
            "resume",
            options=list(RESUME),
            default="auto",
            tooltip="auto: goes on with the last run of this name if data, model and settings are the same, else "
            "starts a numbered new one. continue: goes on, or says what differs. new: starts a new one.",
        ),
        seed_input("Seed of everything random. The same seed gives the same LoRA, on the CPU bit for bit."),
    ]


def _advanced() -> list[io.Input]:
    return [
        _choice("adapter", host.ADAPTER_KINDS, "lora", "Kind of adapter. LoKr and LoHa are ComfyUI's own."),
        _float("alpha", 0.0, 0.0, 4096.0, 0.5, "Adapters are scaled by alpha / rank. 0: alpha = rank.", advanced=True),
        _float(
            "rank_ratio",
            0.0,
            0.0,
            1.0,
            0.05,
            "Above 0: rank = this share of a layer's wider side, instead of 'rank'. The paper uses 0.2.",
            advanced=True,
        ),
        _float("dropout", 0.0, 0.0, 0.95, 0.05, "Share of an adapter's inputs dropped in training.", advanced=True),
        io.Boolean.Input(
            "full_ends",
            default=False,
            tooltip="Train the first and the last convolution in full, as the paper does. They are saved as full "
            "differences, which ComfyUI loads and diffusers does not.",
            advanced=True,
        ),
        io.String.Input(
            "target_pattern",
            default="",
            tooltip="Own choice of layers instead of 'targets': patterns of module paths with * and ?, separated by "
            "commas; linear: or conv: before one takes only such layers. Example: *.attn2.*, conv:input_blocks.*",
            advanced=True,
        ),
        _choice(
            "density", DENSITIES, "uniform", "How flow times are drawn. timestep: as diffusion models are trained."
        ),
        _float(
            "density_mean",
            0.0,
            -5.0,
            5.0,
            0.1,
            "Mean of logit(t), for logit_normal; above 0 leans to data.",
            advanced=True,
        ),
        _float("density_std", 1.0, 0.05, 5.0, 0.05, "Standard deviation of logit(t), for logit_normal.", advanced=True),
        _choice("weight", WEIGHTS, "none", "Factor on the squared error: eps turns a velocity loss into an eps loss."),
        _choice("loss", LOSSES, "mse", "mse: squared error. huber: linear for errors above huber_delta."),
        _float("huber_delta", 0.1, 1e-4, 100.0, 0.05, "Where the Huber loss becomes linear.", 1e-4, advanced=True),
        _float("weight_decay", 0.0, 0.0, 10.0, 0.01, "How strongly the optimizer draws weights to 0.", advanced=True),
        _float("clip", 1.0, 0.0, 1000.0, 0.1, "Largest norm of the gradient; 0 for no clipping.", advanced=True),
        _int("accumulation", 1, 1, 1024, "Batches a step: a larger batch without its memory.", advanced=True),
        _float(
            "ema",
            0.0,
            0.0,
            0.99999,
            0.001,
            "Decay of averaged weights, which are saved instead; 0 for none.",
            1e-5,
            True,
        ),
        _int("validate_every", 50, 0, 100_000, "Steps between measurements of the validation set.", advanced=True),
        _float(
            "preview_cfg", 1.0, 1.0, 30.0, 0.5, "Guidance of previews against 'negative'; 1 for none.", advanced=True
        ),
    ]


def _int(name: str, default: int, low: int, high: int, tooltip: str, advanced: bool = False) -> io.Int.Input:
    return io.Int.Input(name, default=default, min=low, max=high, tooltip=tooltip, advanced=advanced)


def _float(
    name: str,
    default: float,
    low: float,
    high: float,
    step: float,
    tooltip: str,
    round_to: float | None = None,
    advanced: bool = False,
) -> io.Float.Input:
    return io.Float.Input(
        name, default=default, min=low, max=high, step=step, round=round_to or step, tooltip=tooltip, advanced=advanced
    )


def _choice(name: str, options: Iterable[str], default: str, tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(name, options=list(options), default=default, tooltip=tooltip, advanced=True)
