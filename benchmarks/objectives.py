"""Which objective teaches a LoRA soonest: the demo model learns a colour that it has never seen.

    diff2flow        LoRA Trainer (Diff2Flow) at its defaults; sampled as a flow matching model, Euler
    diffusion        the same node with the network's own loss, timesteps uniform; sampled in the same way
    diffusion_ddim   that LoRA on the diffusion model as it is, stock ddim sampler, ddim_uniform scheduler
    naive_fm         the same node, the raw output taken for a velocity; Euler
    integer_timesteps  diff2flow's error at the integer timesteps of diffusion training, so never below t_min: what
                     other Diff2Flow losses do; Euler
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
from collections.abc import Iterator
from statistics import median
from typing import Any

import comfy.utils
import torch
from bench_shared import RESULTS, Rows, add_common_arguments, kept, output_in
from bench_shared.checkpoints import add_model_argument, load_checkpoint, named
from bench_shared.lora_runs import STOCK, WIDGETS, LoraRuns, Steps
from bench_shared.objectives_report import METHODS, markdown, plot
from bench_shared.views import View, as_flow, as_it_is, decode, noise_like, with_lora
from torch import Tensor

from devtools.console import say
from diff2flow_kit.demo import adaptation, evaluate, networks

RUNS = ("none", *WIDGETS, STOCK)
OBJECTIVES = ("diff2flow", "diffusion", "naive_fm")
"""Those of which a step is timed."""
CFG, SIDE = 3.0, networks.IMAGE_SIZE
__all__ = ["METHODS", "add_arguments", "markdown", "plot", "run", "stem"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "objectives")
    add_model_argument(parser)
    parser.add_argument("--task", choices=list(adaptation.TASKS), default="color")
    parser.add_argument("--budgets", nargs="+", type=int, default=[25, 50, 100, 200])
    parser.add_argument("--nfe", nargs="+", type=int, default=[4, 10, 25])
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scenes", type=int, default=96, help="in the training set, all with the new word")
    parser.add_argument("--images", type=int, nargs=2, default=[72, 24], help="with the new word, without it")
    parser.add_argument("--rounds", type=int, default=12, help="of timing")


def stem(options: argparse.Namespace) -> str:
    """Name of the results."""
    return named("objectives", options)


def run(options: argparse.Namespace) -> Rows:
    if options.quick:
        vars(options).update(budgets=[1, 2], nfe=[2], seeds=[0], scenes=8, images=[4, 2], rounds=1, batch=2)
    torch.set_num_threads(options.threads)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode(), output_in(options.work / "output"):
        bench = Bench(options)
        rows = [row for seed in options.seeds for name in options.runs for row in bench.kept_rows(name, seed)]
        rows += bench.seconds_of_a_step()
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{stem(options)}.md").write_text(markdown(rows), encoding="utf-8")
    return rows


class Bench:
    """Model, data and evaluation; runs methods and gives their rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.monotonic()
        self.model, clip, self.vae = load_checkpoint(options.model)
        data = adaptation.training_set(clip, self.vae, options.task, options.scenes)
        self.runs = LoraRuns(self.model, data.latents, data.context, options.batch)
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
            return iter([(0, None)])
        run_name, rate = f"bench_{self.options.model}_{name}_{seed}", self.options.rate
        return self.runs.budgets(name, run_name, self.options.budgets, seed=seed, learning_rate=rate)

    def views(self, name: str, lora: Any) -> dict[str, View]:
        """Method -> how it samples; the loader converts as the LoRA was trained."""
        model = with_lora(self.model, lora)
        if name == STOCK:
            return {name: as_it_is(model)}
        views = {name: as_flow(model)}
        return {**views, "diffusion_ddim": as_it_is(model)} if name == "diffusion" else views

    def images(self, view: View, nfe: int, seed: int) -> Tensor:
        """One image a prompt, (B, H, W, 3); the same noise for every method."""
        noise = noise_like(len(self.evaluation.prompts), SIDE, SIDE, seed)
        return decode(self.vae, view.sample(noise, nfe, CFG, self.positive, self.negative, seed))

    def seconds_of_a_step(self) -> Rows:
        """A row an objective: medians over rounds in which they take turns; the ratio is of processor time."""
        times: dict[str, list[list[float]]] = {name: [] for name in OBJECTIVES}
        for i in range(self.options.rounds):
            for name in OBJECTIVES[i % 3 :] + OBJECTIVES[: i % 3]:
                marks: list[tuple[float, float]] = []
                with Steps(range(1, 8), lambda *_, here=marks: here.append((time.perf_counter(), time.process_time()))):
                    self.runs.ours(
                        name, seed=0, steps=7, run_name="bench_time", resume="new", learning_rate=self.options.rate
                    )
                times[name].append([median(b - a for a, b in zip(column, column[1:])) for column in zip(*marks)])
        return [step_row(name, times[name], times["diffusion"]) for name in OBJECTIVES]


def step_row(name: str, mine: list[list[float]], diffusion: list[list[float]]) -> dict[str, Any]:
    """Seconds a step by the clock and of the processor, and the processor's relative to diffusion."""
    wall, cpu = (round(median(column), 4) for column in zip(*mine))
    ratio = round(median(a[1] / b[1] for a, b in zip(mine, diffusion)), 3)
    return {"method": name, "seconds_a_step": wall, "cpu_seconds_a_step": cpu, "vs_diffusion": ratio}


def rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1 if name == "frechet" else 3) for name, value in metrics.items()}
