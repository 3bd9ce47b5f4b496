"""Zero terminal SNR: can the demo model paint an image that is all black or all white?

The noisiest level that a diffusion model is trained at still shows the image faintly, its mean above all, and sampling
begins where nothing shows: so it keeps to images of a middling mean. A flow matching model begins at pure noise, in
training as in sampling (Lin et al., arXiv 2305.08891, describe the flaw).

    before          the model without training, converted: starts at noise, Euler
    ddim_before     the model as it is: stock ddim sampler, simple scheduler
    diff2flow       with a short LoRA of LoRA Trainer (Diff2Flow), sampled as `before`
    diffusion       the same node, data, seed and settings, but the network's own loss and the timesteps of diffusion
                    training; sampled as `before`
    diffusion_ddim  that LoRA, sampled as `ddim_before`
    integer_timesteps  diff2flow's error at the integer timesteps of diffusion training, so never below t_min: what
                    other Diff2Flow losses do; sampled as `before`

The LoRAs are trained on solid black and white images under the prompts of the evaluation, and on ordinary scenes under
their captions. All sample with the same noise and as many calls of the network, without guidance. Of a sample's latent
in the model's own scale, (4, h, w), the mean over places is compared with that of the solid image through the VAE:
`mean_error` is the root of the mean squared difference over channels and samples; latents of scenes have a standard
deviation of about 1. `latent_error` is the same of the latents themselves, place by place. `cpu_seconds` is what the
training took.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import comfy.sample
import comfy.samplers
import comfy.utils
import numpy as np
import torch
from bench_shared import (
    RESULTS,
    Part,
    Rows,
    add_common_arguments,
    bars,
    call,
    grid,
    kept,
    output_in,
    select,
    some_scenes,
    spread,
)
from bench_shared.lora_runs import WIDGETS
from torch import Tensor

from devtools.console import say
from diff2flow_kit.demo import captions, evaluate, networks, render
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.sampling.sigmas import flow_sigmas
from diff2flow_kit.nodes.training.load_lora import D2FLoadLora
from diff2flow_kit.nodes.training.train_lora import D2FTrainLora

SOLID = {"black": 0.0, "white": 1.0}
"""Prompt -> value of all its pixels; the texts are `a black image` and `a white image`."""
METHODS = ("before", "ddim_before", "diff2flow", "diffusion", "diffusion_ddim", "integer_timesteps")
RECIPE = {
    "targets": "all", "full_ends": True, "rank": 64, "learning_rate": 2e-3, "lr_schedule": "cosine",
    "ema": 0.99, "precision": "bf16", "save_every": 0, "preview_every": 0, "resume": "new",
}  # fmt: skip
OBJECTIVES = {name: dict(WIDGETS[name]) for name in ("diff2flow", "diffusion", "integer_timesteps")}
COLUMNS = ("mean_error", "latent_error")
SIDE, SHOWN = networks.IMAGE_SIZE, 4
_TRAIN = 5  # the stream of random numbers that the scenes of the training set come from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "terminal")
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--warmup", type=int, default=10, help="steps over which the learning rate rises")
    parser.add_argument("--batch", type=int, default=16, help="of training")
    parser.add_argument("--scenes", type=int, default=96, help="ordinary ones in the training set")
    parser.add_argument("--copies", type=int, default=48, help="of each solid image in the training set")
    parser.add_argument("--nfe", type=int, default=25)
    parser.add_argument("--images", type=int, default=32, help="for each prompt")


def run(options: argparse.Namespace) -> Rows:
    if options.quick:
        vars(options).update(steps=2, warmup=1, batch=2, scenes=4, copies=1, nfe=2, images=SHOWN, seeds=[0])
    torch.set_num_threads(options.threads)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode(), output_in(options.work / "output"):
        bench = Bench(options)
        parts = [bench.part(name, seed) for seed in options.seeds for name in ("none", *OBJECTIVES)]
    rows = [row for part in parts for row in part["rows"]]
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "terminal.md").write_text(markdown(rows), encoding="utf-8")
        first = parts[: 1 + len(OBJECTIVES)]
        grid({name: images for part in first for name, images in part["shown"].items()}).save(
            RESULTS / "terminal_grid.png")  # fmt: skip
    return rows


class View(NamedTuple):
    """A way to sample: MODEL, the host's sampler, and its sigmas."""

    model: Any
    sampler: str
    sigmas: Tensor


class Bench:
    """Model, training set and evaluation; makes parts of the result."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.monotonic()
        self.model, self.clip, self.vae = networks.load_demo_checkpoint()
        self.flow = host.convert(self.model, "noise")
        self.solid = {name: self.encode(torch.full((1, SIDE, SIDE, 3), value)) for name, value in SOLID.items()}
        self.latents, self.positive = self.training_set()

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images (N, 96, 96, 3), as LATENTs hold them, (N, 4, 12, 12)."""
        return torch.cat([self.vae.encode(part) for part in images.split(32)]).float().cpu()

    def training_set(self) -> tuple[Tensor, Any]:
        """Latents and CONDITIONING of scenes and of copies of the solid images."""
        chosen, rng = some_scenes(_TRAIN, self.options.scenes), np.random.default_rng(_TRAIN)
        latents = [self.encode(render.render_batch(chosen)[0])]
        texts = [captions.caption(scene, rng) for scene in chosen]
        for name, latent in self.solid.items():
            latents.append(latent.expand(self.options.copies, -1, -1, -1))
            texts += [prompt(name)] * self.options.copies
        return torch.cat(latents), evaluate.encode_prompts(self.clip, texts)

    def part(self, name: str, seed: int) -> Part:
        """Rows and images of the model without a LoRA, "none", or with one trained under an objective."""
        wanted = {k: v for k, v in vars(self.options).items() if k not in ("seeds", "work", "quick")}
        make = self.untrained if name == "none" else self.trained
        found = kept(self.options.work, f"{name}-{seed}", [wanted, RECIPE, OBJECTIVES], lambda: make(name, seed))
        say(f"{time.monotonic() - self.start:6.0f} s  {name}, seed {seed}")
        return found

    def untrained(self, _: str, seed: int) -> Part:
        return self.evaluate({"before": self.as_flow(self.flow), "ddim_before": self.as_it_is(self.model)}, seed)

    def trained(self, name: str, seed: int) -> Part:
        """A LoRA of an objective; its rows also hold how long the training took."""
        start = time.process_time()
        lora = call(
            D2FTrainLora, model=self.flow, latents={"samples": self.latents}, positive=self.positive, seed=seed,
            run_name=f"bench_terminal_{name}_{seed}", steps=self.options.steps, batch_size=self.options.batch,
            warmup_steps=self.options.warmup, **OBJECTIVES[name], **RECIPE,
        )  # fmt: skip
        seconds = round(time.process_time() - start, 1)
        views = {name: self.as_flow(D2FLoadLora.execute(self.flow, "none", 1.0, lora).args[0])}
        if name == "diffusion":
            views["diffusion_ddim"] = self.as_it_is(D2FLoadLora.execute(self.model, "none", 1.0, lora).args[0])
        found = self.evaluate(views, seed)
        return {**found, "rows": [{**row, "cpu_seconds": seconds} for row in found["rows"]]}

    def as_flow(self, model: Any) -> View:
        return View(model, "euler", flow_sigmas(model, {"grid": "uniform"}, self.options.nfe))

    def as_it_is(self, model: Any) -> View:
        return View(model, "ddim", host.stock_sigmas(model, "simple", self.options.nfe))

    def evaluate(self, views: dict[str, View], seed: int) -> Part:
        """A row for each way of sampling and prompt; the first images of both prompts in one line."""
        rows, shown = [], {}
        for method, view in views.items():
            lines = []
            for name, solid in self.solid.items():
                latents = self.sample(view, name, seed)
                rows.append({"method": method, "prompt": name, "seed": seed, **self.errors(latents, solid)})
                lines.append(self.vae.decode(latents[:SHOWN]).float().cpu())
            shown[method] = torch.cat(lines)
        return {"rows": rows, "shown": shown}

    def sample(self, view: View, name: str, seed: int) -> Tensor:
        """Latents (N, 4, 12, 12) under a prompt; the same noise for every way of sampling."""
        if len(view.sigmas) != self.options.nfe + 1:
            raise ValueError(f"{view.sampler} makes {len(view.sigmas) - 1} steps of {self.options.nfe} asked for")
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.options.images, 4, SIDE // 8, SIDE // 8, generator=generator)
        positive, negative = (evaluate.encode_prompts(self.clip, [text]) for text in (prompt(name), ""))
        return comfy.sample.sample_custom(
            view.model, noise, 1.0, comfy.samplers.sampler_object(view.sampler), view.sigmas, positive, negative,
            torch.zeros_like(noise), disable_pbar=True, seed=seed,
        )  # fmt: skip

    def errors(self, latents: Tensor, solid: Tensor) -> dict[str, float]:
        """Distances of samples (N, 4, h, w) from the latent (1, 4, h, w) of the solid image, in the model's scale."""
        difference = self.model.model.process_latent_in(latents) - self.model.model.process_latent_in(solid)
        found = (difference.mean((2, 3)), difference)
        return {name: round(float(each.square().mean().sqrt()), 4) for name, each in zip(COLUMNS, found)}


def prompt(name: str) -> str:
    """Text of a solid image, of words of the demo's vocabulary."""
    return f"a {name} image"


def markdown(rows: Rows) -> str:
    """A table with a row for each method, and below it what the LoRAs leave of the error."""
    heads = [f"{column}, {name}" for column in COLUMNS for name in SOLID]
    lines = [f"| method | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    for method in METHODS:
        cells = [spread(select(rows, column, method=method, prompt=name), ".3f") for column in COLUMNS
                 for name in SOLID]  # fmt: skip
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *verdict(rows), ""])


def verdict(rows: Rows) -> list[str]:
    """Errors relative to those of the model without training, sampled in the same way, and the cost."""
    lines = []
    for method, base in (
        ("diff2flow", "before"),
        ("diffusion", "before"),
        ("diffusion_ddim", "ddim_before"),
        ("integer_timesteps", "before"),
    ):
        for name in SOLID:
            pairs = zip(*(select(rows, "mean_error", method=m, prompt=name) for m in (method, base)), strict=True)
            ratios = [after / before for after, before in pairs]
            lines.append(f"- {method}, {name}: mean_error by that of {base}: {spread(ratios, '.3f')}")
    for objective in OBJECTIVES:
        seconds = select(rows, "cpu_seconds", method=objective, prompt="black")
        lines.append(f"- {objective}: training took {spread(seconds, '.0f')} s of the processor")
    return lines


def plot(rows: Rows, axes: Any) -> None:
    """mean_error of each method and prompt; bars go from least to most."""
    for i, name in enumerate(SOLID):
        centre, reach = bars([select(rows, "mean_error", method=method, prompt=name) for method in METHODS])
        color = {"black": "0.2", "white": "0.8"}[name]
        places = [place + 0.4 * i - 0.2 for place in range(len(METHODS))]
        axes.bar(places, centre, 0.38, yerr=reach, color=color, ecolor="C3", edgecolor="0.2", capsize=3, label=name)
    axes.set_xticks(range(len(METHODS)), METHODS)
    axes.set_ylabel("mean_error")
    axes.legend(title="prompt")
