"""Reflow pairs on N processes: ``accelerate launch -m d2f_diffusers.pairs ...`` or ``diff2flow pairs ...``.

    eps_i ~ N(0, 1) seeded by (seed, i)    d x / d t = v(x, t) + cfg-guidance, t = 0 .. 1    x0_i = x(1)

The missing pairs are cut into batches, and process r takes those with number mod N = r. After each round the first
process writes the latents of all, so there is one set, in the format of the node Generate Reflow Pairs. A batch is
filled up to its full size, so a pair depends on (seed, i) alone: not on N, and not on where a run was cut off.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2f_core import FIXED_METHODS, flow_grid, install_command, solve
from d2f_data.fingerprints import content_digest, schedule_fingerprint, weights_fingerprint
from d2f_data.reflow.pair_set import ReflowPairSet
from d2f_data.reflow.plan import STORAGE, ReflowPairPlan
from d2f_data.reflow.writer import ReflowPairWriter

from .train.__main__ import load
from .train.data.items import joined
from .train.data.set_conditions import to_set
from .train.network import COMPUTE_DTYPES, Condition, PipelineNetwork
from .train.processes import AcceleratedProcesses, make_accelerator

GRID = "uniform"
_FORMATS = {"SD15": "SD15", "SD20": "SD15", "SDXL": "SDXL", "DemoConfig": "DemoLatentFormat"}
"""Kind of model -> ComfyUI's class of its latents, which a set names."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="d2f_diffusers.pairs", description=__doc__, allow_abbrev=False)
    top.add_argument("--pretrained_model_name_or_path", required=True, help="the teacher, a diffusers pipeline")
    top.add_argument("--output_dir", type=Path, required=True, help="folder of the set; an unfinished one is completed")
    top.add_argument("--prompts", type=Path, required=True, help="text file, one prompt per line")
    top.add_argument("--negative_prompt", default="", help="for guidance")
    top.add_argument("--count", type=int, required=True, help="number of pairs; pair i has prompt i mod their number")
    top.add_argument("--num_inference_steps", type=int, default=25)
    top.add_argument("--guidance_scale", type=float, default=1.0, help="1: without guidance")
    top.add_argument("--solver", choices=list(FIXED_METHODS), default="euler")
    top.add_argument("--width", type=int, default=512)
    top.add_argument("--height", type=int, default=512)
    top.add_argument("--batch_size", type=int, default=4, help="pairs per process and round")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--precision", choices=list(COMPUTE_DTYPES), default="auto")
    top.add_argument("--storage", choices=list(STORAGE), default="fp32")
    top.add_argument("--shard_size", type=int, default=256, help="pairs per file")
    return top


class Teacher:
    """A pipeline that makes pairs.

    Args:
        network: the pipeline's network.
        options: the command line.

    Raises:
        ValueError: no prompt, a size that does not fit, or a kind of model whose conditioning sets do not hold.
    """

    def __init__(self, network: PipelineNetwork, options: argparse.Namespace) -> None:
        self.network, self.options = network, options
        if network.kind not in _FORMATS:
            raise ValueError(f"pairs of {network.kind or 'this kind of model'} are made by the node in ComfyUI only")
        lines = options.prompts.read_text(encoding="utf-8").splitlines()
        self.prompts = [line.strip() for line in lines if line.strip()]
        if not self.prompts:
            raise ValueError(f"--prompts {options.prompts} holds no prompt; write one per line")
        self.conditions = [self._condition(prompt) for prompt in self.prompts]
        self.negative = self._condition(options.negative_prompt)
        factor = int(network.pipeline.vae_scale_factor)
        if options.width % factor or options.height % factor:
            raise ValueError(
                f"--width and --height must be multiples of {factor}, not {options.width}, {options.height}"
            )
        shape = (network.channels, options.height // factor, options.width // factor)
        made = (options.count, options.seed, self._settings(), options.shard_size, options.storage)
        self.plan = ReflowPairPlan(shape, *made)
        self.times = flow_grid(GRID, options.num_inference_steps)

    def _condition(self, prompt: str) -> Condition:
        """Conditioning kwargs of a prompt; SDXL's sizes are those of the pictures, as ComfyUI fills them in."""
        width, height = self.options.width, self.options.height
        target = {"target_width": width, "target_height": height}
        sizes = {"width": width, "height": height, "crop_w": 0, "crop_h": 0, **target}
        return self.network.condition(self.network.encode_caption(prompt), sizes)

    def _settings(self) -> dict[str, str | int | float | bool | None]:
        """What determines which latent a noise leads to, under the names of the node."""
        network, options = self.network, self.options
        guided = options.guidance_scale != 1
        scale = network.pipeline.vae.config.scaling_factor
        return {
            "base_model": network.kind,
            "base": weights_fingerprint(network.module),
            "prediction": network.alignment.prediction,
            "coordinates": type(network.alignment).__name__,
            "schedule": schedule_fingerprint(network.alignment.schedule)[:16],
            "latent_space": f"model space of {_FORMATS[network.kind]} (scale factor {scale:g})",
            "solver": options.solver,
            "steps": options.num_inference_steps,
            "grid": GRID,
            "cfg": options.guidance_scale,
            "negative": content_digest(to_set(self.negative))[:16] if guided else "",
            "precision": str(network.dtype).removeprefix("torch."),
            "program": "diffusers",
        }

    @torch.no_grad()
    def sample(self, items: Sequence[int]) -> Tensor:
        """Latents in model space, (B, C, h, w) on the CPU, of pairs; a batch that is not full is filled up for that."""
        full = [*items, *[items[-1]] * (self.options.batch_size - len(items))]
        positive = joined([self.conditions[item % len(self.prompts)] for item in full])
        eps = self.plan.noise(full).to(self.network.device)
        x0 = solve(self._velocity(positive), eps, self.times, self.options.solver)
        return x0[: len(items)].cpu()

    def _velocity(self, positive: Condition) -> Callable[[Tensor, Tensor], Tensor]:
        alignment, cfg = self.network.alignment, self.options.guidance_scale
        negative = joined([self.negative] * self.options.batch_size)

        def one(t: Tensor, x: Tensor, condition: Condition) -> Tensor:
            timestep = alignment.timestep(t).expand(len(x))
            return alignment.velocity(self.network(alignment.to_diffusion(x, t), timestep, condition), x, t)

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            if cfg == 1:
                return one(t, x, positive)
            without = one(t, x, negative)
            return without + cfg * (one(t, x, positive) - without)

        return velocity


def generate(teacher: Teacher, processes: AcceleratedProcesses, say: Callable[[str], None] = print) -> ReflowPairSet:
    """Make all pairs that a set lacks, on all processes; the first one writes them."""
    folder, plan = teacher.options.output_dir, teacher.plan
    first = processes.rank == 0
    writing: Any = nullcontext()
    if first:
        writing = ReflowPairWriter(folder, plan, teacher.prompts, [to_set(one) for one in teacher.conditions])
    with writing as writer:
        # Zeros from all but the first: a sum that reaches everybody.
        mine = list(writer.missing(teacher.options.batch_size)) if first else []
        batches = _shared(mine, plan.count, processes)
        for start in range(0, len(batches), processes.count):
            turn = batches[start : start + processes.count]
            rows = torch.zeros(len(turn), teacher.options.batch_size, *plan.shape)
            if processes.rank < len(turn):
                items = turn[processes.rank]
                rows[processes.rank, : len(items)] = teacher.sample(items)
            rows = processes.sum(rows)  # every row is zero in all processes but one
            if first:
                for items, x0 in zip(turn, rows):
                    writer.add(items, plan.noise(items), x0[: len(items)])
                say(f"{writer.done} of {plan.count} pairs")
    processes.accelerator.wait_for_everyone()
    return ReflowPairSet(folder)


def _shared(batches: list[list[int]], count: int, processes: AcceleratedProcesses) -> list[list[int]]:
    """The first process's batches, in every process."""
    number = torch.zeros(count, dtype=torch.int64)
    for place, items in enumerate(batches, 1):
        number[items] = place
    number = processes.sum(number)
    return [(number == place).nonzero().flatten().tolist() for place in range(1, int(number.max()) + 1)]


def run(arguments: Sequence[str] | None) -> int:
    """Do what a command line asks for."""
    options = parser().parse_args(arguments)
    pipeline = load(options.pretrained_model_name_or_path)
    accelerator = make_accelerator(None, options.output_dir)
    network = PipelineNetwork(pipeline, accelerator.device, options.precision, False)
    made = generate(Teacher(network, options), AcceleratedProcesses(accelerator), accelerator.print)
    accelerator.print(f"{made!r}".strip("<>"))
    accelerator.end_training()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line; what the user can repair is said in a sentence."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return run(arguments)
    except ModuleNotFoundError as error:
        message = f"{error}; run {install_command('diff2flow-kit[train]')}"
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        message = str(error)
    print(f"d2f_diffusers.pairs: {message}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
