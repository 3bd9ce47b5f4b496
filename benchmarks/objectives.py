"""Which objective teaches a LoRA soonest: the demo model learns a colour that it has never seen.

    diff2flow        LoRA Trainer (Diff2Flow) at its defaults; sampled as a flow matching model, Euler
    diffusion        the same node with the network's own loss, timesteps uniform; sampled in the same way
    diffusion_ddim   that LoRA on the diffusion model as it is, stock ddim sampler, ddim_uniform scheduler
    naive_fm         the same node, the raw output taken for a velocity; Euler
    stock            ComfyUI's own TrainLoraNode; sampled as diffusion_ddim
    none             no LoRA; sampled as diff2flow

All train on the same latents and captions, with the same seeds, rank, learning rate, items a step and steps; ours share
start weights, order of data and noise, too. Budgets are steps of one run. A sample asks for every image with a prompt
of its own at a guidance of 3; `accuracy`, `new`, `kept` and `frechet` are those of `demo/adaptation.py`. NFE counts
calls of the network, one for a CFG pair. The last rows time a step of the objectives, which take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from bench_shared import RESULTS, Rows, add_common_arguments, kept, with_options
from bench_shared.objectives_report import METHODS, markdown, plot
from comfy_extras.nodes_train import TrainLoraNode
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from devtools.console import say
from diff2flow_kit.demo import adaptation, evaluate, networks
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.sampling.sigmas import flow_sigmas
from diff2flow_kit.nodes.training.load_lora import D2FLoadLora
from diff2flow_kit.nodes.training.train_lora import D2FTrainLora

RUNS = ("none", "diff2flow", "diffusion", "naive_fm", "stock")
OBJECTIVES = RUNS[1:4]
DENSITY = {"diffusion": "timestep"}
"""Objective -> its density of flow times; the others have the node's default."""
CFG = 3.0
UNIFORM = {"grid": "uniform"}
__all__ = ["METHODS", "add_arguments", "markdown", "plot", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "objectives")
    parser.add_argument("--task", choices=list(adaptation.TASKS), default="color")
    parser.add_argument("--budgets", nargs="+", type=int, default=[25, 50, 100, 200])
    parser.add_argument("--nfe", nargs="+", type=int, default=[4, 10, 25])
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scenes", type=int, default=96, help="in the training set, all with the new word")
    parser.add_argument("--images", type=int, nargs=2, default=[72, 24], help="with the new word, without it")
    parser.add_argument("--rounds", type=int, default=12, help="of timing")


def run(options: argparse.Namespace) -> Rows:
    if options.quick:
        vars(options).update(budgets=[1, 2], nfe=[2], seeds=[0], scenes=8, images=[4, 2], rounds=1, batch=2)
    torch.set_num_threads(options.threads)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode():
        bench = Bench(options)
        rows = [row for seed in options.seeds for name in options.runs for row in bench.kept_rows(name, seed)]
        rows += bench.seconds_of_a_step()
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "objectives.md").write_text(markdown(rows), encoding="utf-8")
    return rows


@dataclass(frozen=True)
class View:
    """A way to sample a LoRA: MODEL, the host's sampler, and sigmas for a number of steps."""

    model: Any
    sampler: str
    sigmas: Any


class Bench:
    """Model, data and evaluation; runs methods and gives their rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.monotonic()
        self.model, clip, self.vae = networks.load_demo_checkpoint()
        self.data = adaptation.training_set(clip, self.vae, options.task, options.scenes)
        new, known = options.images
        self.evaluation = adaptation.Evaluation(options.task, new, known, references=32 if options.quick else 1024)
        self.positive, self.negative = (
            evaluate.encode_prompts(clip, texts) for texts in (self.evaluation.prompts, [""])
        )

    def kept_rows(self, name: str, seed: int) -> Rows:
        """Rows of a run, of the work folder if it was finished before."""
        wanted = {k: v for k, v in vars(self.options).items() if k not in ("seeds", "runs", "rounds", "work")}
        part = kept(self.options.work, f"{name}-{seed}", wanted, lambda: {"rows": list(self.rows(name, seed))})
        rows: Rows = part["rows"]
        say(f"{time.monotonic() - self.start:6.0f} s  {name}, seed {seed}: {len(rows)} rows")
        return rows

    def rows(self, name: str, seed: int) -> Iterator[dict[str, Any]]:
        """A row for each budget, way of sampling, and NFE."""
        for budget, lora in self.train(name, seed):
            for method, view in self.views(name, lora).items():
                for nfe in self.options.nfe:
                    metrics = self.evaluation.measure(self.images(view, nfe, seed))
                    yield {"method": method, "budget": budget, "nfe": nfe, "seed": seed, **rounded(metrics)}
            say(f"{time.monotonic() - self.start:6.0f} s  {name}, seed {seed}, {budget} steps")

    def train(self, name: str, seed: int) -> Iterator[tuple[int, Any]]:
        """(budget, LORA_MODEL) of a run, budgets ascending."""
        if name == "none":
            yield 0, None
        elif name == "stock":
            yield from self.train_stock(seed)
        else:
            for budget in sorted(self.options.budgets):  # each goes on where the one before stopped
                yield budget, self.train_ours(name, seed, budget, run_name=f"bench_{name}_{seed}", resume="auto")

    def train_ours(self, objective: str, seed: int, steps: int, **widgets: Any) -> Any:
        """What LoRA Trainer (Diff2Flow) gives after ``steps``."""
        density = {"density": DENSITY[objective]} if objective in DENSITY else {}
        quiet = {"save_every": 0, "preview_every": 0}
        return self.call(
            D2FTrainLora, objective=objective, seed=seed, steps=steps, batch_size=self.options.batch,
            **density, **quiet, **widgets,
        )  # fmt: skip

    def train_stock(self, seed: int) -> Iterator[tuple[int, Any]]:
        """Snapshots of one run of TrainLoraNode: float32, no checkpointing, one item a forward pass.

        With more it gives every item of the batch each caption of the batch and takes the mean of the answers.
        """
        taken: list[list[Tensor]] = []

        def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            taken.append([p.detach().clone() for p in optimizer.param_groups[0]["params"]])

        budgets = sorted(self.options.budgets)
        with Steps(budgets, look):
            lora = self.call(
                TrainLoraNode, seed=seed, steps=budgets[-1], batch_size=1, training_dtype="fp32", lora_dtype="fp32",
                grad_accumulation_steps=self.options.batch, gradient_checkpointing=False,
            )  # fmt: skip
        for budget, tensors in zip(budgets, taken, strict=True):
            yield budget, dict(zip(lora, tensors, strict=True))

    def call(self, node: Any, **inputs: Any) -> Any:
        """First output of a trainer node, called as the host calls it: inputs as lists, the rest at their defaults."""
        given = {each.id: [each.default] for each in node.define_schema().inputs if hasattr(each, "default")}
        inputs = with_options(node, inputs | {"model": self.model, "learning_rate": self.options.rate})
        unknown = inputs.keys() - given.keys() - {"model", "options"}
        if unknown:
            raise ValueError(f"{node.__name__} has no input {', '.join(sorted(unknown))}")
        given |= {name: [value] for name, value in inputs.items()}
        given["latents"] = [{"samples": self.data.latents}]
        given["positive"] = [[[row[None], {}]] for row in self.data.context]
        return node.PREPARE_CLASS_CLONE(None).execute(**given).args[0]

    def views(self, name: str, lora: Any) -> dict[str, View]:
        """Method -> how it samples; the loader converts as the LoRA was trained."""
        model = self.model if lora is None else D2FLoadLora.execute(self.model, "none", 1.0, lora).args[0]
        plain = View(model, "ddim", partial(host.stock_sigmas, model, "ddim_uniform"))
        if name == "stock":
            return {name: plain}
        flow = model if host.is_flow(model) else host.convert(model)
        views = {name: View(flow, "euler", partial(flow_sigmas, flow, UNIFORM))}
        return {**views, "diffusion_ddim": plain} if name == "diffusion" else views

    def images(self, view: View, nfe: int, seed: int) -> Tensor:
        """One image a prompt, (B, 96, 96, 3); the same noise for every method."""
        sigmas = view.sigmas(nfe)
        if len(sigmas) != nfe + 1:
            raise ValueError(f"{view.sampler} makes {len(sigmas) - 1} steps where {nfe} were asked for")
        side = networks.IMAGE_SIZE // 8
        noise = torch.randn(len(self.evaluation.prompts), 4, side, side, generator=torch.Generator().manual_seed(seed))
        latents = comfy.sample.sample_custom(
            view.model, noise, CFG, comfy.samplers.sampler_object(view.sampler), sigmas, self.positive, self.negative,
            torch.zeros_like(noise), disable_pbar=True, seed=seed,
        )  # fmt: skip
        return self.vae.decode(latents)

    def seconds_of_a_step(self) -> Rows:
        """A row an objective: medians over rounds in which they take turns; the ratio is of processor time."""
        times: dict[str, list[list[float]]] = {name: [] for name in OBJECTIVES}
        for i in range(self.options.rounds):
            for name in OBJECTIVES[i % 3 :] + OBJECTIVES[: i % 3]:
                marks: list[tuple[float, float]] = []
                with Steps(range(1, 8), lambda *_, here=marks: here.append((time.perf_counter(), time.process_time()))):
                    self.train_ours(name, seed=0, steps=7, run_name="bench_time", resume="new")
                times[name].append([median(b - a for a, b in zip(column, column[1:])) for column in zip(*marks)])
        return [step_row(name, times[name], times["diffusion"]) for name in OBJECTIVES]


class Steps:
    """`with Steps(counts, look):` calls `look(optimizer, ...)` after those steps of the optimizer, counted from 1."""

    def __init__(self, counts: Sequence[int], look: Any) -> None:
        self.counts, self.look, self.step = counts, look, 0

    def __enter__(self) -> None:
        self.hook = register_optimizer_step_post_hook(self.after)

    def __exit__(self, *error: object) -> None:
        self.hook.remove()

    def after(self, *arguments: Any) -> None:
        self.step += 1
        if self.step in self.counts:
            self.look(*arguments)


def step_row(name: str, mine: list[list[float]], diffusion: list[list[float]]) -> dict[str, Any]:
    """Seconds a step by the clock and of the processor, and the processor's relative to diffusion."""
    wall, cpu = (round(median(column), 4) for column in zip(*mine))
    ratio = round(median(a[1] / b[1] for a, b in zip(mine, diffusion)), 3)
    return {"method": name, "seconds_a_step": wall, "cpu_seconds_a_step": cpu, "vs_diffusion": ratio}


def rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1 if name == "frechet" else 3) for name, value in metrics.items()}
