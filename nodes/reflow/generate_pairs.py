"""Generate Reflow Pairs: MODEL and prompts -> D2F_PAIRS on disk."""

import time
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...d2f_core import FIXED_METHODS
from ...d2f_data.plots.loss_plot import as_image, side_by_side
from ...d2f_data.reflow.plan import STORAGE
from .. import host
from ..widgets import CATEGORY, seed_input
from .pair_generator import ReflowPairGenerator, ReflowPairSettings, describe
from .prompts import gather_prompts

PICTURES = 4


class D2FReflowPairs(io.ComfyNode):
    """Samples the teacher from many noises and keeps noise, latent and prompt of each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FReflowPairs",
            display_name="Generate Reflow Pairs (Diff2Flow)",
            category=CATEGORY,
            description="Samples a model from many noises and keeps each noise with the latent it leads to, in shards "
            "on disk. Trained on these pairs, the model takes nearly straight paths, for which one to four steps are "
            "enough. Can be cancelled without loss; run again, it goes on where it stopped.",
            search_aliases=["diff2flow reflow", "rectified flow pairs", "distill dataset", "few step", "noise pairs"],
            is_input_list=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The teacher: diffusion model (SD1.5, SD2.1, SDXL), converted to flow matching or not. "
                    "With a reflow LoRA on it for another round.",
                ),
                *_wanted(),
                *_teacher(),
                *_storage(),
                io.Clip.Input("clip", optional=True, tooltip="Encodes the prompts: the CLIP of the model."),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Conditionings instead of prompts: one, or a list of them.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="For guidance, the empty prompt as a rule. Needed where cfg is not 1.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="For true preview pictures; rough ones without it."),
            ],
            outputs=[
                io.Custom("D2F_PAIRS").Output(
                    display_name="pairs", tooltip="For the input 'pairs' of Diff2Flow LoRA Trainer."
                ),
                io.String.Output(display_name="report", tooltip="Teacher, size on disk, speed and prompts."),
                io.Image.Output(display_name="preview", tooltip="The first pairs' latents as pictures."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
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
        settings.check(has_negative=bool(negative))
        shown = gather_prompts(prompts, prompt_file[0], clip and clip[0], positive)
        with host.training(model[0], settings.precision) as network:
            null = negative[0] if negative else None
            maker = ReflowPairGenerator(model[0], network, settings, shown, null, cls.hidden.unique_id)
            start = time.perf_counter()
            pairs = maker.run()
            report = describe(pairs, maker.made, time.perf_counter() - start)
            latents = pairs.read(range(min(PICTURES, len(pairs)))).x0
            samples = network.samples(latents.to(network.device))
        host.LOGGER.info("%r", pairs)
        return io.NodeOutput(pairs, report, _pictures(model[0], vae and vae[0], latents, samples))


def _pictures(model: Any, vae: Any, latents: Tensor, samples: Tensor) -> Tensor:
    """IMAGE of latents in model space and as a LATENT holds them; black where there is no way to make one."""
    if vae is not None:
        return host.decode(vae, samples)
    rough = [host.quick_picture(model, latent[None]) for latent in latents]
    return torch.zeros(1, 64, 64, 3) if rough[0] is None else as_image(side_by_side(rough))


def _wanted() -> list[io.Input]:
    return [
        io.String.Input(
            "prompts",
            default="",
            multiline=True,
            placeholder="one prompt a line",
            tooltip="What the pairs show, one prompt a line; they are taken in turn. Use many, as varied as what the "
            "model is to be used for.",
        ),
        io.String.Input(
            "prompt_file",
            default="",
            placeholder="prompts.txt",
            tooltip="Text file with more prompts, one a line: an absolute path, or one inside ComfyUI's input folder.",
        ),
        io.String.Input(
            "name",
            default="my_pairs",
            tooltip="Folder of the set in output/diff2flow/pairs. It goes on if it is there.",
        ),
        io.Int.Input(
            "count",
            default=1000,
            min=1,
            max=100_000_000,
            tooltip="Pairs in all. Some thousands for a style or the demo model, more for a model of everything. Raise "
            "it to add pairs to a set.",
        ),
        _side("width"),
        _side("height"),
    ]


def _side(name: str) -> io.Input:
    return io.Int.Input(
        name,
        default=512,
        min=16,
        max=8192,
        step=8,
        tooltip="In pixels: 512 for SD1.5, 768 for SD2.1, 1024 for SDXL, 96 for the demo model.",
    )


def _teacher() -> list[io.Input]:
    return [
        io.Combo.Input(
            "solver",
            options=list(FIXED_METHODS),
            default="euler",
            tooltip="How the teacher is integrated. Model calls a step: euler 1, midpoint and heun 2, rk4 4.",
        ),
        io.Int.Input("steps", default=25, min=1, max=1000, tooltip="Steps of the teacher from noise to latent."),
        io.Float.Input(
            "cfg",
            default=5.0,
            min=0.0,
            max=30.0,
            step=0.1,
            round=0.01,
            tooltip="Guidance of the teacher. The student learns it along and is then sampled with CFG 1, at half the "
            "cost a step. 1 is none.",
        ),
        io.Int.Input(
            "batch_size", default=8, min=1, max=1024, tooltip="Pairs that are sampled at once; it changes speed only."
        ),
        seed_input("Seed of the noise. Pair i comes from seed and i alone."),
    ]


def _storage() -> list[io.Input]:
    return [
        io.Combo.Input(
            "precision",
            options=list(host.COMPUTE_DTYPES),
            default="auto",
            tooltip="Type that the teacher computes in. auto: the model's own.",
            advanced=True,
        ),
        io.Combo.Input(
            "storage",
            options=list(STORAGE),
            default="fp16",
            tooltip="Type on disk. fp16 takes half the space: 64 KiB a pair at 512 x 512.",
            advanced=True,
        ),
        io.Int.Input(
            "shard_size",
            default=256,
            min=1,
            max=100_000,
            tooltip="Pairs a file. A shard is in memory until it is full; a killed ComfyUI loses at most one.",
            advanced=True,
        ),
    ]
