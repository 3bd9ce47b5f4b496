"""Generate Reflow Pairs: MODEL and prompts -> D2F_PAIRS, stored on disk."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...d2f_core import FIXED_METHODS, WINDOWS, check_steps
from ...d2f_data.plots.pil_images import from_pil, side_by_side
from ...d2f_data.reflow.plan import STORAGE
from .. import host
from ..checks import checked, fault_of
from ..widgets import REFLOW, search_words, seed_input
from .pair_generator import ReflowPairGenerator, ReflowPairSettings, describe
from .prompts import gather_prompts, read_prompts

PREVIEWED_PAIRS = 4


class D2FReflowPairs(io.ComfyNode):
    """Samples the teacher from many noise tensors and stores noise, latent and prompt of each sample."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FReflowPairs",
            display_name="Generate Reflow Pairs (Diff2Flow)",
            category=REFLOW,
            description="Samples a teacher model from many noise tensors and stores each one with the latent it leads "
            "to, in shards on disk. A model trained on these pairs follows nearly straight paths, so one to four steps "
            "are enough. Cancelling loses no finished batch; the next run continues where this one stopped.",
            search_aliases=search_words("D2FReflowPairs"),
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The teacher: a diffusion model (SD1.5, SD2.1, SDXL, EDM), converted to flow matching or "
                    "not, or a flow matching model. For another round of reflow, apply the reflow LoRA of the previous "
                    "one first.",
                ),
                *_pair_inputs(),
                *_teacher_inputs(),
                *_storage_inputs(),
                io.Clip.Input("clip", optional=True, tooltip="The model's CLIP, which encodes the prompts."),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Conditionings to use instead of prompts: one, or a list of them.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Negative conditioning for guidance, usually the empty prompt. Required unless cfg is 1.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the preview images; without it they are rough approximations.",
                ),
                _windows(),
            ],
            outputs=[
                io.Custom("D2F_PAIRS").Output(
                    display_name="pairs", tooltip="For the 'pairs' input of LoRA Trainer (Diff2Flow)."
                ),
                io.String.Output(display_name="report", tooltip="Teacher settings, size on disk, speed and prompts."),
                io.Image.Output(display_name="preview", tooltip="The latents of the first pairs as images."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        name: Sequence[str | None] = (None,),
        prompt_file: Sequence[str | None] = (None,),
        steps: Sequence[int | None] = (None,),
        windows: Sequence[str | None] = (None,),
    ) -> bool | str:
        """Checked when the graph is queued; None is a value that comes through a wire."""
        set_name, file, number, parts = name[0], prompt_file[0], steps[0], windows[0]
        return fault_of(
            lambda: set_name is None or host.pair_set_folder(set_name),
            lambda: file is None or read_prompts(file),
            lambda: number is None or parts is None or check_steps(number, int(parts)),
        )

    @classmethod
    @checked()
    def execute(
        cls,
        model: list[Any],
        prompts: list[str],
        prompt_file: list[str],
        clip: list[Any] | None = None,
        positive: list[Any] | None = None,
        negative: list[Any] | None = None,
        vae: list[Any] | None = None,
        **widgets: list[Any],
    ) -> io.NodeOutput:
        settings = ReflowPairSettings(**{name: values[0] for name, values in widgets.items()})
        settings.check(has_negative=bool(negative), model=model[0])
        encoded = gather_prompts(prompts, prompt_file[0], clip and clip[0], positive)
        null = negative[0] if negative else None
        generator = ReflowPairGenerator(model[0], settings, encoded, null, cls.hidden.unique_id)
        start = time.perf_counter()
        pairs = generator.run()
        report = describe(pairs, generator.generated, time.perf_counter() - start)
        latents = pairs.read(range(min(PREVIEWED_PAIRS, len(pairs)))).x0
        samples = host.to_samples(model[0], latents)
        host.LOGGER.info("%r", pairs)
        said = {"text": [report]}
        return io.NodeOutput(pairs, report, _preview(model[0], vae and vae[0], latents, samples), ui=said)


def _preview(model: Any, vae: Any, latents: Tensor, samples: Tensor) -> Tensor:
    """IMAGE (B, H, W, 3) that shows some latents; black if they can be neither decoded nor approximated.

    Args:
        model: MODEL, for the approximation without a VAE.
        vae: VAE, or None.
        latents: (B, C, h, w) in model space, for the approximation.
        samples: the same latents as a LATENT holds them, for the VAE.
    """
    if vae is not None:
        return host.decode(vae, samples)
    rough = [host.quick_picture(model, latent[None]) for latent in latents]
    return torch.zeros(1, 64, 64, 3) if rough[0] is None else from_pil(side_by_side(rough))


def _pair_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "prompts",
            default="",
            multiline=True,
            placeholder="one prompt per line",
            tooltip="Prompts of the pairs, one per line, used in turn. Write many, as varied as the images that you "
            "want from the trained model.",
        ),
        io.String.Input(
            "prompt_file",
            default="",
            placeholder="prompts.txt",
            tooltip="Text file with more prompts, one per line: an absolute path, or a path inside ComfyUI's input "
            "folder.",
        ),
        io.String.Input(
            "name",
            default="my_pairs",
            tooltip="Folder of the set in output/diff2flow/pairs. An existing set is continued.",
        ),
        io.Int.Input(
            "count",
            default=1000,
            min=1,
            max=100_000_000,
            tooltip="Total number of pairs. A few thousand suffice for one style or the demo model; a general-purpose "
            "model needs more. Increase it to add pairs to an existing set.",
        ),
        _side("width"),
        _side("height"),
    ]


def _windows() -> io.Input:
    """Behind all other inputs, as saved graphs keep widgets by place; optional, as older prompts lack it."""
    return io.Combo.Input(
        "windows",
        options=[str(number) for number in WINDOWS],
        default="1",
        optional=True,
        tooltip="Piecewise reflow: the student learns a straight path in each of this many windows of the way, and is "
        "sampled in as many steps: 4 for 4 steps, 1 for one or two. 'steps' must be a multiple of it. A set "
        "takes windows + 1 latents per pair on disk instead of 2, and can be read in fewer windows later.",
    )


def _side(name: str) -> io.Input:
    return io.Int.Input(
        name,
        default=512,
        min=16,
        max=8192,
        step=8,
        tooltip="In pixels: 512 for SD1.5, 768 for SD2.1, 1024 for SDXL, 96 for the demo model.",
    )


def _teacher_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "solver",
            options=list(FIXED_METHODS),
            default="euler",
            tooltip="ODE solver for the teacher. Model evaluations per step: euler 1, midpoint and heun 2, rk4 4.",
        ),
        io.Int.Input("steps", default=25, min=1, max=1000, tooltip="Solver steps of the teacher from noise to latent."),
        io.Float.Input(
            "cfg",
            default=5.0,
            min=0.0,
            max=30.0,
            step=0.1,
            round=0.01,
            tooltip="Classifier-free guidance scale of the teacher; 1 disables it. The student learns the guided "
            "result and is later sampled at CFG 1, at half the cost per step.",
        ),
        io.Int.Input(
            "batch_size",
            default=8,
            min=1,
            max=1024,
            tooltip="Pairs sampled at once. It affects speed and memory, and the last digits of the pairs.",
        ),
        seed_input("Seed of the noise. The noise of pair i depends only on the seed and i."),
    ]


def _storage_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "precision",
            options=list(host.COMPUTE_DTYPES),
            default="auto",
            tooltip="Data type the teacher computes in. auto: the model's own.",
            advanced=True,
        ),
        io.Combo.Input(
            "storage",
            options=list(STORAGE),
            default="fp16",
            tooltip="Data type on disk. fp16 halves the size, to 64 KiB per pair at 512 x 512.",
            advanced=True,
        ),
        io.Int.Input(
            "shard_size",
            default=256,
            min=1,
            max=100_000,
            tooltip="Pairs per file. A shard stays in memory until it is full; killing ComfyUI loses at most one.",
            advanced=True,
        ),
    ]
