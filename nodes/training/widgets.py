"""The trainer's own widgets; each is a field of ``TrainingPlan`` of the same name.

What people set for every LoRA is here. All else is in the settings nodes, whose widgets are in ``options.widgets``.
"""

from comfy_api.latest import io

from ...d2f_core import CHOSEN_OBJECTIVES
from ...d2f_data.files.run_folder import RESUME
from ..widgets import choice, integer, number, seed_input


def training_widgets() -> list[io.Input]:
    """In the order in which the node shows them."""
    return [*_run(), *_learning(), *_keeping()]


def _run() -> list[io.Input]:
    return [
        io.String.Input(
            "run_name",
            default="my_lora",
            tooltip="Name of the run. Its state is saved in output/diff2flow/runs, its LoRA files in "
            "output/loras/diff2flow.",
        ),
        choice(
            "objective",
            CHOSEN_OBJECTIVES,
            "diff2flow",
            "What is learned. diff2flow: the velocity, read off the network's prediction (the paper's); on a "
            "model that is a flow matching model already, its own loss, noted as flow. diffusion: the network's own "
            "eps or v. naive_fm: the raw output as velocity, the paper's baseline, for comparison. consistency: after "
            "reflow, on the same pairs and from its LoRA, a finish for one and two steps.",
            advanced=False,
        ),
    ]


def _learning() -> list[io.Input]:
    return [
        integer(
            "steps",
            500,
            1,
            1_000_000,
            "Total number of steps, including those before a resume. With a learning rate schedule other than constant "
            "(of a preset, or Optimizer Options (Diff2Flow)), changing it starts a new run.",
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
        integer("rank", 16, 1, 1024, "Rank of the adapters; the file grows with it. 4 to 64 is usual."),
        integer(
            "batch_size",
            1,
            1,
            1024,
            "Training items per forward pass. Items of different sizes are never mixed in one batch.",
        ),
    ]


def _keeping() -> list[io.Input]:
    return [
        integer(
            "preview_every",
            50,
            0,
            100_000,
            "Make a preview every so many steps (sampled in 10 steps), or draw the prompts of 'samples'; 0 makes none.",
        ),
        choice(
            "resume",
            RESUME,
            "auto",
            "auto: resumes the last run of this name if data, model and settings are the same; otherwise "
            "starts a new, numbered run. continue: resumes, or reports what differs. new: always starts a new run.",
            advanced=False,
        ),
        seed_input("Seed of all random numbers. The same seed gives the same LoRA, bit for bit on the CPU."),
    ]
