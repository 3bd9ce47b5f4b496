"""Depth of an image from the demo model: what a LoRA learns from rendered scenes, and in how few calls it answers.

    diff2flow             LoRA Trainer (Diff2Flow) on a model with Add Image Condition: images beside the noise, depth
                          targets to paint, an empty prompt
    naive_fm              the same node, data, seed and settings, the raw output taken for a velocity
    diffusion             the same, but the network's own loss and the timesteps of diffusion training
    diffusion_flow_times  the same loss at the flow times of diff2flow and naive_fm
    integer_timesteps     diff2flow's error at the integer timesteps of diffusion training, as other Diff2Flow losses
    diffusion_ddim        the LoRA of diffusion on the diffusion model as it is: stock ddim sampler, simple scheduler
    constant              one depth for all places
    luminance             the brightness of the image, taken for depth
    mean_map              the mean of all training targets, whatever the image shows
    vae                   the true target after a round trip through the VAE: no sample can be expected to do better

All but diffusion_ddim are sampled by Depth from Image, which begins at noise and takes Euler steps, a call of the
network each. `absrel`, `delta1`, `delta2` and `rmse` (metres) are means over held-out scenes, as Depth Metrics gives
them: scale and shift of the logarithm of depth are fitted to each image first. Seeds differ in noise and training; what
needs no training has a row of seed 0 and NFE 0. `cpu_seconds` is what the training took. `--sweep` asks instead when
which objective is ahead, over ranks and budgets: see `bench_shared/depth/sweep.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from bench_shared import RESULTS, Part, Rows, add_common_arguments, call, grid, kept, output_in
from bench_shared.checkpoints import add_model_argument, load_checkpoint, named
from bench_shared.depth import report, sweep
from bench_shared.depth.report import BASELINES, COLUMNS, METHODS, markdown, verdict
from bench_shared.lora_runs import INTEGER
from torch import Tensor

from devtools.console import say
from diff2flow_kit.d2f_core import depth_scores
from diff2flow_kit.d2f_data.plots.depth_images import colorize
from diff2flow_kit.demo import evaluate, networks
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.demo.scenes import D2FDemoScenes
from diff2flow_kit.nodes.image_to_image.add_condition import D2FImageCondition
from diff2flow_kit.nodes.image_to_image.depth_from_image import D2FDepthFromImage
from diff2flow_kit.nodes.image_to_image.depth_target import D2FDepthTarget
from diff2flow_kit.nodes.training.load_lora import D2FLoadLora
from diff2flow_kit.nodes.training.train_lora import D2FTrainLora

RECIPE = {
    "targets": "all", "full_ends": True, "rank": 64, "learning_rate": 2e-3, "lr_schedule": "cosine",
    "ema": 0.99, "precision": "bf16", "save_every": 0, "preview_every": 0, "resume": "new",
}  # fmt: skip
# Dense where sampling begins: at t = 0 the first call of the network has to know the answer.
TIMES = {"density": "logit_normal", "density_mean": -3.0, "density_std": 2.0}
OBJECTIVES = {
    "diff2flow": {"objective": "diff2flow", **TIMES},
    "naive_fm": {"objective": "naive_fm", **TIMES},
    "diffusion": {"objective": "diffusion", "density": "timestep"},
    "diffusion_flow_times": {"objective": "diffusion", **TIMES},
    "integer_timesteps": dict(INTEGER),
}
"""What is trained: name -> its widgets beside those of the recipe."""
PALETTE, SIDE, SHOWN = "spectral", networks.IMAGE_SIZE, 8
SHOWN_NFE = (1, 2, 10)
_TRAIN, _EXAM, _TUNE = 101, 102, 103  # seeds of Demo Scenes
__all__ = ["BASELINES", "METHODS", "add_arguments", "grid", "markdown", "plot", "run", "stem", "verdict"]
Predict = Callable[[int], tuple[Tensor, Tensor]]  # number of calls -> depth in colours (N, H, W, 3), depth (N, H, W)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "depth")
    add_model_argument(parser)
    sweep.add_arguments(parser)
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--warmup", type=int, default=10, help="steps over which the learning rate rises")
    parser.add_argument("--batch", type=int, default=16, help="of training")
    parser.add_argument("--scenes", type=int, default=512, help="in the training set")
    parser.add_argument("--images", type=int, default=64, help="held out, that a model is evaluated on")
    parser.add_argument("--nfe", nargs="+", type=int, default=[1, 2, 4, 10])


def stem(options: argparse.Namespace) -> str:
    """Name of the results."""
    return named("depth_sweep" if options.sweep else "depth", options)


def plot(rows: Rows, axes: Any) -> None:
    """That of the table, or of the sweep."""
    (sweep if any("tuned" in row for row in rows) else report).plot(rows, axes)


def run(options: argparse.Namespace) -> Rows:
    if options.quick:
        vars(options).update(steps=2, warmup=1, batch=2, scenes=4, images=SHOWN, nfe=[1, 2, 10], seeds=[0])
        vars(options).update(ranks=[2], budgets=[2, 4], rates=[1e-3, 2e-3])
    torch.set_num_threads(options.threads)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode(), output_in(options.work / "output"):
        bench = Bench(options)
        rows = sweep.run(bench, options) if options.sweep else compared(bench, options)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        text = sweep.markdown(rows) if options.sweep else markdown(rows)
        (RESULTS / f"{stem(options)}.md").write_text(text, encoding="utf-8")
    return rows


def compared(bench: Bench, options: argparse.Namespace) -> Rows:
    """Rows of every method at one rank and budget; the pictures go to a grid."""
    first, *trained = [bench.part("none", 0)] + [
        bench.part(name, seed) for seed in options.seeds for name in OBJECTIVES
    ]
    if not options.quick:
        shown = {k: images for part in (first, *trained[: len(OBJECTIVES)]) for k, images in part["shown"].items()}
        grid(shown).save(RESULTS / f"{stem(options)}_grid.png")
    return [row for part in (*trained, first) for row in part["rows"]]


class Bench:
    """Model, training set and evaluation; makes parts of the result."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.monotonic()
        self.model, clip, self.vae = load_checkpoint(options.model)
        self.widened = D2FImageCondition.execute(self.model).args[0]
        self.prompt = evaluate.encode_prompts(clip, [""])
        images, _, depth = D2FDemoScenes.execute("known words", options.scenes, _TRAIN).args
        self.targets = targets(depth)
        self.latents, self.condition = self.encode(self.targets), self.encode(images)
        self.images, self.depth = self.scenes(_EXAM)

    def scenes(self, seed: int) -> tuple[Tensor, Tensor]:
        """Images (N, H, W, 3) and depth (N, H, W) of scenes that nothing is trained on."""
        images, _, depth = D2FDemoScenes.execute("known words", self.options.images, seed).args
        return images, depth

    def tuning_scenes(self) -> tuple[Tensor, Tensor]:
        """Those for the choice of learning rates."""
        return self.scenes(_TUNE)

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images (N, 96, 96, 3), as LATENTs hold them, (N, 4, 12, 12)."""
        return torch.cat([self.vae.encode(part) for part in images.split(32)]).float().cpu()

    def decode(self, latents: Tensor) -> Tensor:
        """Mean over the channels of the images of latents, (N, 96, 96)."""
        return torch.cat([self.vae.decode(part).float().cpu().mean(-1) for part in latents.split(32)])

    def part(self, name: str, seed: int) -> Part:
        """Rows and images of what needs no training, "none", or of a LoRA trained under an objective."""
        wanted = {k: v for k, v in vars(self.options).items() if k not in ("seeds", "work", "quick", *sweep.OPTIONS)}
        make = self.untrained if name == "none" else self.trained
        settings = [wanted, RECIPE, OBJECTIVES.get(name)]
        found = kept(self.options.work, f"{name}-{seed}", settings, lambda: make(name, seed))
        say(f"{time.monotonic() - self.start:6.0f} s  {name}, seed {seed}")
        return found

    def untrained(self, _: str, seed: int) -> Part:
        """The baselines and the round trip; images and true depth to show."""
        true = targets(self.depth)
        answers = {
            "constant": torch.zeros_like(self.depth),
            "luminance": self.images @ torch.tensor([0.2126, 0.7152, 0.0722]),
            "mean_map": self.targets.mean((0, 3)).expand_as(self.depth),
            "vae": self.decode(self.encode(true)),
        }
        rows = [{"method": name, "nfe": 0, "seed": seed, **self.scores(answer)} for name, answer in answers.items()]
        shown = {"image": self.images, "depth": colorize(true.mean(-1), PALETTE)}
        return {"rows": rows, "shown": {name: images[:SHOWN].clone() for name, images in shown.items()}}

    def train(self, name: str, seed: int, run_name: str, **widgets: Any) -> Any:
        """LORA_MODEL of an objective; ``widgets`` in place of those of the recipe."""
        given = {"steps": self.options.steps, "warmup_steps": self.options.warmup, "batch_size": self.options.batch}
        return call(
            D2FTrainLora, model=self.widened, latents={"samples": self.latents}, positive=self.prompt, seed=seed,
            condition={"samples": self.condition}, run_name=f"bench_depth_{self.options.model}_{run_name}",
            **{**RECIPE, **OBJECTIVES[name], **given, **widgets},
        )  # fmt: skip

    def trained(self, name: str, seed: int) -> Part:
        """A LoRA, evaluated; its rows also hold how long the training took."""
        start = time.process_time()
        lora = self.train(name, seed, f"{name}_{seed}")
        seconds = round(time.process_time() - start, 1)
        say(f"{time.monotonic() - self.start:6.0f} s  {name}, seed {seed}: trained in {seconds} s of the processor")
        model = D2FLoadLora.execute(self.model, "none", 1.0, lora).args[0]
        found = self.evaluate(name, partial(self.by_node, model, seed), seed)
        if name == "diffusion":
            plain = self.evaluate("diffusion_ddim", partial(self.by_ddim, model, seed), seed)
            found = {key: found[key] + plain[key] if key == "rows" else {**found[key], **plain[key]} for key in found}
        return {**found, "rows": [{**row, "cpu_seconds": seconds} for row in found["rows"]]}

    def evaluate(self, method: str, predict: Predict, seed: int) -> Part:
        """A row for each number of calls; the first images of some."""
        rows, shown = [], {}
        for nfe in self.options.nfe:
            colored, depth = predict(nfe)
            rows.append({"method": method, "nfe": nfe, "seed": seed, **self.scores(depth)})
            if nfe in SHOWN_NFE:
                shown[f"{method}, {nfe} NFE"] = colored[:SHOWN].clone()
        return {"rows": rows, "shown": shown}

    def by_node(self, model: Any, seed: int, nfe: int, images: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Depth from Image at the size of the images."""
        images = self.images if images is None else images
        colored, depth, _, calls = D2FDepthFromImage.execute(
            model, self.vae, images, self.prompt, nfe, seed, 1, SIDE, PALETTE
        ).args
        if calls != nfe:
            raise ValueError(f"Depth from Image took {calls} calls of the network where {nfe} were asked for")
        return colored, depth

    def by_ddim(self, model: Any, seed: int, nfe: int) -> tuple[Tensor, Tensor]:
        """The host's own sampler, with the same noise for all images, as Depth from Image has it."""
        sigmas = host.stock_sigmas(model, "simple", nfe)
        conditions = host.with_condition(self.prompt, self.encode(self.images))
        empty = {"samples": torch.zeros(len(self.images), 4, SIDE // 8, SIDE // 8)}
        empty["batch_index"] = [0] * len(self.images)
        sampler = comfy.samplers.sampler_object("ddim")
        answer = host.sample(model, empty, conditions, conditions, 1.0, sampler, sigmas, seed)
        depth = self.decode(answer["samples"]).clamp(0, 1)
        return colorize(depth, PALETTE), depth

    def scores(self, prediction: Tensor, depth: Tensor | None = None) -> dict[str, float]:
        """Of relative log depth (N, 96, 96), means over the images."""
        mean = depth_scores(prediction, self.depth if depth is None else depth).mean()
        return {name: round(float(getattr(mean, name)), 5) for name in COLUMNS}


def targets(depth: Tensor) -> Tensor:
    """Images (N, H, W, 3) of metric depth (N, H, W), by Depth Target at its defaults."""
    return D2FDepthTarget.execute(depth, 1.0, 99.0, True).args[0]
