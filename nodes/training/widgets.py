"""The trainer's widgets; each is a field of ``TrainingPlan`` of the same name."""

from collections.abc import Iterable

from comfy_api.latest import io

from ...d2f_core import DENSITIES, OBJECTIVES, OPTIMIZERS, SCHEDULES, TARGETS, WEIGHTS
from ...d2f_data.files.run_folder import RESUME
from .. import host
from ..widgets import seed_input

LOSSES = ("mse", "huber")


def training_widgets() -> list[io.Input]:
    """All widgets. Those that are rarely needed come last and are marked as advanced."""
    return [*_run(), *_adapter(), *_optimizer(), *_memory(), *_keeping(), *_advanced()]


def _run() -> list[io.Input]:
    return [
        io.String.Input(
            "run_name",
            default="my_lora",
            tooltip="Name of the run. Its state is saved in output/diff2flow/runs, its LoRA files in "
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
            "Total number of steps, including those before a resume. With an "
            "lr_schedule other than constant, changing it starts a new run.",
        ),
        _float("learning_rate", 1e-4, 1e-7, 10.0, 1e-5, "Learning rate after the warm-up. Use 1 for prodigy.", 1e-7),
        _int(
            "batch_size",
            1,
            1,
            1024,
            "Training items per forward pass. Items of different sizes are never mixed in one batch.",
        ),
    ]


def _adapter() -> list[io.Input]:
    return [
        _int("rank", 16, 1, 1024, "Rank of the adapters; the file grows with it. 4 to 64 is usual."),
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
            tooltip="adamw and adafactor (less memory) are always available; adamw_8bit needs bitsandbytes, prodigy "
            "needs prodigyopt, schedule_free needs schedulefree.",
        ),
        io.Combo.Input(
            "lr_schedule",
            options=list(SCHEDULES),
            default="constant",
            tooltip="How the learning rate changes after the warm-up. All but constant end at step 'steps'.",
        ),
        _int("warmup_steps", 0, 0, 100_000, "Number of steps over which the learning rate rises from 0."),
    ]


def _memory() -> list[io.Input]:
    return [
        io.Combo.Input(
            "precision",
            options=list(host.COMPUTE_DTYPES),
            default="auto",
            tooltip="Data type of the model's computation; adapters are always float32. auto: the model's own. bf16 is "
            "the safest choice on recent GPUs; fp16 scales its gradients. A type other than the model's own needs a "
            "copy of its weights.",
        ),
        io.Boolean.Input(
            "checkpointing",
            default=False,
            tooltip="Gradient checkpointing: recomputes blocks in the backward pass. About a third slower, with a "
            "fraction of the memory. Switch it on for SDXL below 24 GB and for SD1.5 below 8 GB.",
        ),
        _float(
            "caption_dropout",
            0.0,
            0.0,
            0.99,
            0.01,
            "Probability that an item is trained without its caption; needs 'negative'.",
        ),
    ]


def _keeping() -> list[io.Input]:
    return [
        _int(
            "save_every",
            250,
            0,
            100_000,
            "Save the state and a LoRA every so many steps; 0 saves only at the end and on cancel.",
        ),
        _int(
            "preview_every", 50, 0, 100_000, "Make a preview every so many steps (sampled in 10 steps); 0 makes none."
        ),
        io.Combo.Input(
            "resume",
            options=list(RESUME),
            default="auto",
            tooltip="auto: resumes the last run of this name if data, model and settings are the same; otherwise "
            "starts a new, numbered run. continue: resumes, or reports what differs. new: always starts a new run.",
        ),
        seed_input("Seed of all random numbers. The same seed gives the same LoRA, bit for bit on the CPU."),
    ]


def _advanced() -> list[io.Input]:
    return [
        _choice("adapter", host.ADAPTER_KINDS, "lora", "Kind of adapter. LoKr and LoHa are ComfyUI's own."),
        _float(
            "alpha", 0.0, 0.0, 4096.0, 0.5, "Adapters are scaled by alpha / rank. 0 means alpha = rank.", advanced=True
        ),
        _float(
            "rank_ratio",
            0.0,
            0.0,
            1.0,
            0.05,
            "Above 0: rank of each layer = this fraction of max(in, out), instead of 'rank'. The paper uses 0.2.",
            advanced=True,
        ),
        _float(
            "dropout",
            0.0,
            0.0,
            0.95,
            0.05,
            "Probability of dropping an input value of an adapter in training.",
            advanced=True,
        ),
        io.Boolean.Input(
            "full_ends",
            default=False,
            tooltip="Train all weights of the first and the last convolution, as the paper does. They are saved as "
            "full weight differences, which ComfyUI loads and diffusers does not.",
            advanced=True,
        ),
        io.String.Input(
            "target_pattern",
            default="",
            tooltip="Layers to adapt instead of those of 'targets': patterns of module paths with * and ?, separated "
            "by commas; the prefix linear: or conv: selects only such layers. Example: *.attn2.*, conv:input_blocks.*",
            advanced=True,
        ),
        _choice(
            "density",
            DENSITIES,
            "uniform",
            "How flow times t are sampled. timestep: uniform over timesteps, as diffusion models are trained.",
        ),
        _float(
            "density_mean",
            0.0,
            -5.0,
            5.0,
            0.1,
            "Mean of logit(t) for logit_normal; above 0 favours times near the data.",
            advanced=True,
        ),
        _float("density_std", 1.0, 0.05, 5.0, 0.05, "Standard deviation of logit(t) for logit_normal.", advanced=True),
        _choice(
            "weight",
            WEIGHTS,
            "none",
            "Weight of the squared error as a function of t: eps turns a velocity loss into an eps loss.",
        ),
        _choice("loss", LOSSES, "mse", "mse: squared error. huber: quadratic up to huber_delta, linear above it."),
        _float(
            "huber_delta", 0.1, 1e-4, 100.0, 0.05, "Error above which the Huber loss is linear.", 1e-4, advanced=True
        ),
        _float("weight_decay", 0.0, 0.0, 10.0, 0.01, "Weight decay of the optimizer; 0 disables it.", advanced=True),
        io.Float.Input(
            "clip",
            display_name="max_grad_norm",
            default=1.0,
            min=0.0,
            max=1000.0,
            step=0.1,
            round=0.1,
            tooltip="Gradients are clipped to this norm; 0 disables clipping.",
            advanced=True,
        ),
        _int(
            "accumulation",
            1,
            1,
            1024,
            "Gradient accumulation: batches per step, for a larger batch without its memory.",
            advanced=True,
        ),
        _float(
            "ema",
            0.0,
            0.0,
            0.99999,
            0.001,
            "Decay of the exponential moving average of the weights, which is saved instead; 0 disables it.",
            1e-5,
            True,
        ),
        _int(
            "validate_every",
            50,
            0,
            100_000,
            "Measure the loss of the validation set every so many steps.",
            advanced=True,
        ),
        _float(
            "preview_cfg",
            1.0,
            1.0,
            30.0,
            0.5,
            "Guidance scale of previews, with 'negative'; 1 disables guidance.",
            advanced=True,
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
