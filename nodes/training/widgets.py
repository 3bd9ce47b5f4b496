"""The trainer's widgets; each is a field of ``TrainingPlan`` of the same name."""

from comfy_api.latest import io

from ...d2f_core import CHOSEN_OBJECTIVES, OPTIMIZERS, SCHEDULES, TARGETS
from ...d2f_data.files.run_folder import RESUME
from .. import host
from ..widgets import integer, number, seed_input
from .advanced_widgets import advanced_widgets


def training_widgets() -> list[io.Input]:
    """All widgets. Those that are rarely needed come last and are marked as advanced."""
    return [*_run(), *_adapter(), *_optimizer(), *_memory(), *_keeping(), *advanced_widgets()]


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
            options=list(CHOSEN_OBJECTIVES),
            default="diff2flow",
            tooltip="What is learned. diff2flow: the velocity, read off the network's prediction (the paper's); on a "
            "model that is a flow matching model already, its own loss, noted as flow. diffusion: the network's own "
            "eps or v. naive_fm: the raw output as velocity, the paper's baseline, for comparison. consistency: after "
            "reflow, on the same pairs and from its LoRA, a finish for one and two steps.",
        ),
        integer(
            "steps",
            500,
            1,
            1_000_000,
            "Total number of steps, including those before a resume. With an "
            "lr_schedule other than constant, changing it starts a new run.",
        ),
        number(
            "learning_rate",
            1e-4,
            1e-7,
            10.0,
            1e-5,
            "Learning rate after the warm-up. Use 1 for prodigy, which refuses less than 0.1.",
            1e-7,
        ),
        integer(
            "batch_size",
            1,
            1,
            1024,
            "Training items per forward pass. Items of different sizes are never mixed in one batch.",
        ),
    ]


def _adapter() -> list[io.Input]:
    return [
        integer("rank", 16, 1, 1024, "Rank of the adapters; the file grows with it. 4 to 64 is usual."),
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
            tooltip="adamw, adafactor (less memory), lion (half the memory of adamw, a learning rate 3 to 10 times "
            "smaller) and muon are always available; adamw_8bit and lion_8bit need bitsandbytes, prodigy needs "
            "prodigyopt, schedule_free needs schedulefree, came needs came-pytorch.",
        ),
        io.Combo.Input(
            "lr_schedule",
            options=list(SCHEDULES),
            default="constant",
            tooltip="How the learning rate changes after the warm-up. All but constant fall to 0 at step 'steps': "
            "linear in a straight line, polynomial as the square of that (fast at first), cosine along half a cosine, "
            "cosine_with_restarts along three of these, each from the full rate.",
        ),
        integer("warmup_steps", 0, 0, 100_000, "Number of steps over which the learning rate rises from 0."),
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
        number(
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
        integer(
            "save_every",
            250,
            0,
            100_000,
            "Steps between saves of the state and a LoRA; 0 saves them only at the end and on cancel. The state "
            "alone is also saved every 5 minutes.",
        ),
        integer(
            "preview_every",
            50,
            0,
            100_000,
            "Make a preview every so many steps (sampled in 10 steps), or draw the prompts of 'samples'; 0 makes none.",
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
