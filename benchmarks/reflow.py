"""Reflow of the demo model: how good one to four calls of the network are, after training on the model's own samples.

    teacher           the converted model, Euler, guidance 3: what the pairs were made with
    ddim              the model as it is: stock ddim sampler, simple scheduler
    converted         the converted model without reflow, Euler
    reflow            with a LoRA that was trained on the pairs; pairs, trainer and loader are our nodes
    reflow_diffusion  the same pairs and settings, but the network's own loss and the timesteps of diffusion training
    reflow_integer    the same, but at the integer timesteps of diffusion training, as other Diff2Flow losses do it
    renders           no model: fresh renders, evaluated as the samples are; no sampler can be expected to do better
    pairs             rate of making pairs, and that relative to sampling the same batches with the host

NFE counts calls of the network, two per step with guidance. All share pairs, prompts and, for a seed, the noise; seeds
differ in noise and training. `accuracy` is the share of attributes, of those that a prompt names, that are read
right. `frechet` is the distance to fresh renders on the reader's features, `frechet_teacher` that to samples of the
teacher under prompts and noise that nothing was trained on. `straightness` is the mean squared difference between the
velocity and its chord, 0 for a straight path; paths begin at t = 0. `cpu_seconds` is what the training took.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from bench_shared import RESULTS, Part, Rows, add_common_arguments, call, grid, kept, output_in, some_scenes
from bench_shared.checkpoints import add_model_argument, load_checkpoint, named
from bench_shared.lora_runs import INTEGER
from bench_shared.pair_rate import pair_rate
from bench_shared.reflow_report import MODELS, markdown, plot
from torch import Tensor

from devtools.console import say
from diff2flow_kit.d2f_core import flow_grid, follow, straightness
from diff2flow_kit.demo import evaluate, networks, reader, render
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.network.cfg_velocity import CfgVelocity
from diff2flow_kit.nodes.network.conditionings import join
from diff2flow_kit.nodes.reflow.generate_pairs import D2FReflowPairs
from diff2flow_kit.nodes.reflow.prompts import gather_prompts
from diff2flow_kit.nodes.sampling.sigmas import flow_sigmas
from diff2flow_kit.nodes.training.load_lora import D2FLoadLora
from diff2flow_kit.nodes.training.train_lora import D2FTrainLora

CFG, SIDE, BATCH, SHOWN = 3.0, networks.IMAGE_SIZE, 32, 8
UNIFORM = {"grid": "uniform"}
FEW = [(1, 1.0), (2, 1.0), (4, 1.0)]
EVALUATED = {"ddim": [*FEW, (4, CFG), (8, CFG), (50, CFG)], "converted": [*FEW, (4, CFG), (8, CFG)],
         "reflow": FEW, "reflow_diffusion": FEW, "reflow_integer": FEW}  # fmt: skip
"""Model -> (NFE, guidance) that it is sampled with; those of the teacher follow from `--teacher-steps`."""
RECIPE = {
    "targets": "all", "full_ends": True, "rank": 64, "learning_rate": 2e-3, "lr_schedule": "cosine",
    "ema": 0.99, "precision": "bf16", "save_every": 0, "preview_every": 0, "resume": "new",
}  # fmt: skip
OBJECTIVES = {"reflow": {"objective": "diff2flow", "density": "u_shaped"},
              "reflow_diffusion": {"objective": "diffusion", "density": "timestep"},
              "reflow_integer": dict(INTEGER)}  # fmt: skip
__all__ = ["MODELS", "add_arguments", "markdown", "plot", "run", "stem"]
# Streams of random numbers: scenes of the pairs, of the evaluation, to compare with, and of the floor.
_PAIRS, _ASK, _COMPARE, _FLOOR = 1, 2, 3, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "reflow")
    add_model_argument(parser)
    parser.add_argument("--pairs", type=int, default=2048)
    parser.add_argument("--teacher-pairs", type=int, default=512, help="samples of the teacher to compare with")
    parser.add_argument("--teacher-steps", type=int, default=25, help="of Euler's method, two calls each")
    parser.add_argument("--steps", type=int, default=800, help="of training")
    parser.add_argument("--warmup", type=int, default=10, help="steps over which the learning rate rises")
    parser.add_argument("--batch", type=int, default=32, help="of training")
    parser.add_argument("--images", type=int, default=256, help="that a model is evaluated on")
    parser.add_argument("--paths", type=int, default=64, help="that straightness is measured on")
    parser.add_argument("--references", type=int, default=1024, help="renders to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="of timing")


def stem(options: argparse.Namespace) -> str:
    """Name of the results."""
    return named("reflow", options)


def run(options: argparse.Namespace) -> Rows:
    if options.quick:
        vars(options).update(pairs=8, teacher_pairs=8, teacher_steps=4, steps=2, batch=2, warmup=1, images=8)
        vars(options).update(paths=2, references=32, seeds=[0], rounds=1)
    torch.set_num_threads(options.threads)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode(), output_in(options.work / "output"):
        bench = Bench(options)
        parts = [bench.kept(name, seed) for seed in options.seeds for name in ("base", *OBJECTIVES)]
        rows = [row for part in parts for row in part["rows"]] + bench.kept("pairs", 0)["rows"]
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{stem(options)}.md").write_text(markdown(rows), encoding="utf-8")
        shown = {name: images for part in parts[: 1 + len(OBJECTIVES)] for name, images in part["shown"].items()}
        grid(shown).save(RESULTS / f"{stem(options)}_grid.png")
    return rows


class View(NamedTuple):
    """A way to sample: MODEL, the host's sampler, and whether the sigmas are those of a flow."""

    model: Any
    sampler: str = "euler"
    is_flow: bool = True

    def sigmas(self, steps: int) -> Tensor:
        model = self.model
        found = flow_sigmas(model, UNIFORM, steps) if self.is_flow else host.stock_sigmas(model, "simple", steps)
        if len(found) != steps + 1:
            raise ValueError(f"{self.sampler} makes {len(found) - 1} steps where {steps} were asked for")
        return found


class Bench:
    """Model, pairs and evaluation; makes parts of the result: rows, and images to show."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start, self.tag = options, time.monotonic(), f"bench_{options.model}"
        self.model, self.clip, self.vae = load_checkpoint(options.model)
        self.flow = host.convert(self.model, "noise")
        self.prompts, self.wanted = evaluate.prompts_for(some_scenes(_ASK, options.images))
        self.positive, self.negative = (evaluate.encode_prompts(self.clip, texts) for texts in (self.prompts, [""]))
        self.renders = reader.features(render.render_batch(some_scenes(_COMPARE, options.references))[0])
        self.pairs = self.make_pairs(options.pairs, seed=0)
        others = self.make_pairs(options.teacher_pairs, seed=1).read(range(options.teacher_pairs)).x0
        self.samples = reader.features(self.decode(self.model.model.process_latent_out(others)))
        self.say(f"{self.pairs!r} and {options.teacher_pairs} to compare with")

    def kept(self, name: str, seed: int) -> Part:
        """Part of the result, from the work folder if it was finished before."""
        wanted = {k: v for k, v in vars(self.options).items() if k not in ("seeds", "work", "quick")}
        make = {"base": self.base, "pairs": self.rate}.get(name, self.student)
        settings = [wanted, RECIPE, OBJECTIVES, EVALUATED]
        found = kept(self.options.work, f"{name}-{seed}", settings, lambda: make(name, seed))
        self.say(f"{name}, seed {seed}")
        return found

    def base(self, _: str, seed: int) -> Part:
        """What no training is needed for."""
        flow, plain = View(self.flow), View(self.model, "ddim", is_flow=False)
        parts = [self.evaluate(name, view, seed) for name, view in
                 (("teacher", flow), ("ddim", plain), ("converted", flow))]  # fmt: skip
        renders = render.render_batch(some_scenes(_FLOOR, self.options.images, seed))[0]
        floor = {"model": "renders", "seed": seed, **self.distances(renders)}
        return {"rows": [row for part in parts for row in part["rows"]] + [floor],
                "shown": {name: images for part in parts for name, images in part["shown"].items()}}  # fmt: skip

    def student(self, name: str, seed: int) -> dict[str, Any]:
        """A trained LoRA, evaluated; its rows also hold how long the training took."""
        start = time.process_time()
        lora = call(
            D2FTrainLora, model=self.model, pairs=self.pairs, run_name=f"{self.tag}_{name}_{seed}", seed=seed,
            steps=self.options.steps, batch_size=self.options.batch, warmup_steps=self.options.warmup,
            **RECIPE, **OBJECTIVES[name],
        )  # fmt: skip
        seconds = round(time.process_time() - start, 1)
        self.say(f"{name}, seed {seed}: trained in {seconds} s of the processor")
        model = D2FLoadLora.execute(self.model, "none", 1.0, lora).args[0]
        part = self.evaluate(name, View(model if host.is_flow(model) else host.convert(model, "noise")), seed)
        return {**part, "rows": [{**row, "cpu_seconds": seconds} for row in part["rows"]]}

    def make_pairs(self, count: int, seed: int) -> Any:
        """D2F_PAIRS of the generator node, under prompts of their own."""
        prompts = evaluate.prompts_for(some_scenes(_PAIRS, count, seed))[0]
        return call(
            D2FReflowPairs, model=self.model, clip=self.clip, negative=self.negative, prompts="\n".join(prompts),
            name=f"{self.tag}_{count}_{self.options.teacher_steps}_{seed}", count=count, width=SIDE, height=SIDE,
            steps=self.options.teacher_steps, cfg=CFG, batch_size=BATCH, seed=seed, storage="fp32",
        )  # fmt: skip

    def evaluate(self, name: str, view: View, seed: int) -> dict[str, Any]:
        """A row for each number of calls and guidance, and the first images of each."""
        evaluated = EVALUATED.get(name, [(2 * self.options.teacher_steps, CFG)])
        straight = {cfg: self.straightness(view, cfg, seed) for cfg in {cfg for _, cfg in evaluated} if view.is_flow}
        rows, shown = [], {}
        for nfe, cfg in evaluated:
            images = self.images(view, nfe, cfg, seed)
            where = {"model": name, "nfe": nfe, "cfg": cfg, "seed": seed}
            rows.append({**where, "accuracy": self.accuracy(images), **self.distances(images),
                         "straightness": straight.get(cfg)})  # fmt: skip
            shown[f"{name}, {nfe} NFE" + (", CFG" if cfg != 1 else "")] = images[:SHOWN].clone()
        return {"rows": rows, "shown": shown}

    def images(self, view: View, nfe: int, cfg: float, seed: int) -> Tensor:
        """One image a prompt, (B, 96, 96, 3); the same noise for every model."""
        sigmas = view.sigmas(nfe if cfg == 1 else nfe // 2)
        noise = torch.randn(len(self.prompts), 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))
        latents = []
        for first in range(0, len(noise), BATCH):
            part = noise[first : first + BATCH]
            conditions = [
                [value[first : first + BATCH], {"pooled_output": extra["pooled_output"][first : first + BATCH]}]
                for value, extra in self.positive
            ]
            latents.append(comfy.sample.sample_custom(
                view.model, part, cfg, comfy.samplers.sampler_object(view.sampler), sigmas, conditions, self.negative,
                torch.zeros_like(part), disable_pbar=True, seed=seed,
            ))  # fmt: skip
        return self.decode(torch.cat(latents))

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents, (B, 96, 96, 3)."""
        return torch.cat([self.vae.decode(part).float().cpu() for part in latents.split(BATCH)])

    def accuracy(self, images: Tensor) -> float:
        """Share of the named attributes that are read right."""
        read = reader.read_attributes(images)
        right = [got[name] == word for got, words in zip(read, self.wanted) for name, word in words.items()]
        return round(sum(right) / len(right), 4)

    def distances(self, images: Tensor) -> dict[str, float]:
        """Frechet distances to renders and to samples of the teacher."""
        found = reader.features(images)
        references = {"frechet": self.renders, "frechet_teacher": self.samples}
        return {name: round(evaluate.frechet_distance(found, other), 2) for name, other in references.items()}

    def straightness(self, view: View, cfg: float, seed: int) -> float:
        """Mean over paths of the first prompts, followed by Heun's method."""
        count = self.options.paths
        entries = gather_prompts(["\n".join(self.prompts[:count])], "", self.clip, None).entries
        eps = torch.randn(count, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))
        found = []
        with host.training(view.model) as network:
            conditions = [network.condition([entry], tuple(eps.shape[1:])) for entry in entries]
            null = None if cfg == 1 else network.condition(self.negative, tuple(eps.shape[1:]))
            for first in range(0, count, BATCH):
                part = eps[first : first + BATCH].to(network.device)
                velocity = CfgVelocity(network, network.alignment, join(conditions[first : first + BATCH]), null, cfg)
                found.append(straightness(follow(velocity, part, flow_grid("uniform", self.options.teacher_steps))))
        return round(float(torch.cat(found).mean()), 5)

    def rate(self, name: str, seed: int) -> Part:
        """Pairs per second, writing included, and relative to the host's sampling."""
        calls = {"count": 4, "size": 2, "steps": 2} if self.options.quick else {"count": 64, "size": 16, "steps": 10}
        found = pair_rate(self, CFG, SIDE, self.options.rounds, **calls)
        return {"rows": [{"model": name, "seed": seed, **found}], "shown": {}}

    def say(self, text: str) -> None:
        say(f"{time.monotonic() - self.start:6.0f} s  {text}")
