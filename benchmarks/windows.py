"""Reflow in windows, on the demo model: how near a few steps come to where the teacher ends from the same noise.

    teacher           the converted model, Euler, guidance 3: what the pairs were made with
    ddim              the model as it is: stock ddim sampler, simple scheduler
    converted         the converted model without reflow, Euler
    reflow            with a LoRA that was trained on the pairs, read in 1, 2, 4 or 8 windows
    reflow_diffusion  the same pairs, but the network's own loss and the timesteps of diffusion training
    reflow_long       the same with twice the steps: the budget of
    few_steps         reflow, and as many steps from its LoRA on the same pairs, where 1 and 2 steps call the network
    finish            the same with the objective consistency
    online            windows that begin at noised renders instead of on the teacher's path, as PeRFlow does it

All share pairs, prompts and, for a seed, the noise; seeds differ in noise and training. Pairs, trainer and loader are
our nodes. NFE counts calls of the network; students are sampled without guidance by the stock sampler euler. `distance`
is the mean squared difference of a latent to that of the teacher from the same noise. `accuracy` is the share of
attributes, of those that a prompt names, that are read right; `frechet` and `frechet_teacher` are the distances to
renders, and to the teacher's own pictures of these prompts and this noise, on the reader's features. `straightness` is
that of the paths of a model without guidance.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from bench_shared import RESULTS, Part, Rows, add_common_arguments, bars, call, kept, output_in, select, some_scenes
from bench_shared.online import online_lora
from bench_shared.windows_report import markdown
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

CFG, SIDE, BATCH, STORED = 3.0, networks.IMAGE_SIZE, 32, 8
RECIPE = {
    "targets": "all", "full_ends": True, "learning_rate": 2e-3, "lr_schedule": "cosine",
    "ema": 0.98, "precision": "bf16", "save_every": 0, "preview_every": 0, "resume": "auto",
}  # fmt: skip
OBJECTIVES = {"reflow": {"objective": "diff2flow", "density": "u_shaped"},
              "reflow_long": {"objective": "diff2flow", "density": "u_shaped"},
              "reflow_diffusion": {"objective": "diffusion", "density": "timestep"},
              "few_steps": {"objective": "diff2flow", "density": "few_steps"},
              "finish": {"objective": "consistency", "density": "few_steps"},
              "online": {"objective": "diff2flow", "density": "u_shaped"}}  # fmt: skip
FINISHES = ("few_steps", "finish")
QUICK = {"seeds": [0], "windows": [1, 4], "ranks": [4], "controls": [4], "finishes": [4], "nfe": [1, 4], "steps": 2,
         "pairs": 8, "teacher_steps": 8, "batch": 2, "warmup": 1, "images": 4, "paths": 2,
         "references": 32}  # fmt: skip
# Streams of random numbers: scenes of the pairs, and of the evaluation.
_PAIRS, _ASK, _COMPARE = 21, 22, 23
__all__ = ["add_arguments", "markdown", "plot", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "windows")
    parser.add_argument("--windows", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--ranks", nargs="+", type=int, default=[16, 8, 64], help="the most important first")
    parser.add_argument("--controls", nargs="*", type=int, default=[1, 4], help="windows of reflow_diffusion")
    parser.add_argument("--finishes", nargs="*", type=int, default=[1, 4], help="windows that a finish follows")
    parser.add_argument("--online", nargs="*", type=int, default=[4], help="windows of online")
    parser.add_argument("--nfe", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--teacher-steps", type=int, default=24, help="of Euler's method, two calls each")
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--warmup", type=int, default=10, help="steps over which the learning rate rises")
    parser.add_argument("--batch", type=int, default=32, help="of training")
    parser.add_argument("--images", type=int, default=128, help="that a model is evaluated on")
    parser.add_argument("--paths", type=int, default=32, help="that straightness is measured on")
    parser.add_argument("--references", type=int, default=1024, help="renders to compare with")


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if options.quick:
        vars(options).update(QUICK)
    torch.set_num_threads(options.threads)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    rows: Rows = []
    with torch.inference_mode(), output_in(options.work / "output"):
        bench = Bench(options)
        for name, windows, rank, seed in bench.orders():
            found = bench.kept(name, windows, rank, seed)["rows"]
            rows += found
            yield from found
    if not options.quick:
        (RESULTS / "windows.md").write_text(markdown(rows), encoding="utf-8")


def plot(rows: Rows, axes: Any) -> None:
    """Distance over the number of steps, a line per number of windows, at the first rank."""
    rank = next(row["rank"] for row in rows if row["model"] == "reflow")
    lines: dict[str, dict[str, Any]] = {"converted": {"model": "converted"}}
    for windows in sorted({row["windows"] for row in rows if row["model"] == "reflow"}):
        lines[f"{windows} windows, rank {rank}"] = {"model": "reflow", "windows": windows, "rank": rank}
    for name, where in lines.items():
        steps = sorted({row["nfe"] for row in rows if where.items() <= row.items()})
        centre, error = bars([select(rows, "distance", nfe=nfe, **where) for nfe in steps])
        axes.errorbar(steps, centre, error, marker="o", capsize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("steps, one call of the network each")
    axes.set_ylabel("mean squared distance to the teacher's latent")
    axes.legend()


class Bench:
    """Model, pairs and evaluation."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.monotonic()
        self.model, self.clip, self.vae = networks.load_demo_checkpoint()
        self.flow = host.convert(self.model, "noise")
        self.prompts, self.wanted = evaluate.prompts_for(some_scenes(_ASK, options.images))
        self.positive, self.negative = (evaluate.encode_prompts(self.clip, texts) for texts in (self.prompts, [""]))
        self.renders = reader.features(render.render_batch(some_scenes(_COMPARE, options.references))[0])
        self.pairs = self.make_pairs()
        self.teachers: dict[int, Tensor] = {}
        self.say(f"{self.pairs!r}")

    def orders(self) -> Iterator[tuple[str, int, int, int]]:
        """(model, windows, rank, seed) of what is measured, the most important first."""
        options = self.options
        yield from (("base", 0, 0, seed) for seed in options.seeds)
        for rank in options.ranks:
            for seed in options.seeds:
                yield from (("reflow", windows, rank, seed) for windows in options.windows)
            if rank == options.ranks[0]:
                for seed in options.seeds:
                    yield from (("reflow_long", 1, rank, seed), ("few_steps", 1, rank, seed))
                    yield from (("finish", windows, rank, seed) for windows in options.finishes)
                others = {"reflow_diffusion": options.controls, "online": options.online}
                yield from ((name, w, rank, seed) for name in others for seed in options.seeds for w in others[name])

    def kept(self, name: str, windows: int, rank: int, seed: int) -> Part:
        """Part of the result, from the work folder if it was finished before."""
        free = ("seeds", "work", "quick", "windows", "ranks", "controls", "finishes", "online")
        wanted = {key: value for key, value in vars(self.options).items() if key not in free}
        make = (lambda: self.base(seed)) if name == "base" else (lambda: self.student(name, windows, rank, seed))
        found = kept(self.options.work, f"{name}-{windows}-{rank}-{seed}", [wanted, RECIPE, OBJECTIVES], make)
        self.say(f"{name}, {windows} windows, rank {rank}, seed {seed}")
        return found

    def make_pairs(self) -> Any:
        options = self.options
        prompts = evaluate.prompts_for(some_scenes(_PAIRS, options.pairs))[0]
        return call(
            D2FReflowPairs, model=self.model, clip=self.clip, negative=self.negative, prompts="\n".join(prompts),
            name=f"bench_{options.pairs}_{options.teacher_steps}", count=options.pairs, width=SIDE, height=SIDE,
            steps=options.teacher_steps, cfg=CFG, batch_size=BATCH, storage="fp16", windows=str(STORED),
        )  # fmt: skip

    def base(self, seed: int) -> Part:
        rows = [self.row("teacher", self.teacher(seed), 2 * self.options.teacher_steps, seed, cfg=CFG)]
        straight = self.straightness(self.flow, seed)
        for nfe in self.options.nfe:
            sigmas = host.stock_sigmas(self.model, "simple", nfe)
            rows.append(self.row("ddim", self.sample(self.model, "ddim", sigmas, seed), nfe, seed))
            rows.append(self.row("converted", self.few(self.flow, nfe, seed), nfe, seed, straightness=straight))
        return {"rows": rows, "shown": {}}

    def student(self, name: str, windows: int, rank: int, seed: int) -> Part:
        lora = self.trained(name, windows, rank, seed) if name != "online" else online_lora(
            self.model, self.vae, self.clip, some_scenes(_PAIRS, self.options.pairs),
            self.settings(name) | {"rank": rank, "seed": seed}, windows, self.options.teacher_steps, CFG,
        )  # fmt: skip
        loaded = D2FLoadLora.execute(self.model, "none", 1.0, lora).args[0]
        model = loaded if host.is_flow(loaded) else host.convert(loaded, "noise")
        about = {"windows": windows, "rank": rank, "straightness": self.straightness(model, seed)}
        rows = [self.row(name, self.few(model, nfe, seed), nfe, seed, **about) for nfe in self.options.nfe]
        return {"rows": rows, "shown": {}}

    def trained(self, name: str, windows: int, rank: int, seed: int) -> Any:
        """LORA_MODEL of the trainer node; a run that was finished before gives its own at once."""
        before = {"start_lora": self.trained("reflow", windows, rank, seed)} if name in FINISHES else {}
        return call(
            D2FTrainLora, model=self.model, pairs=self.pairs.in_windows(windows), seed=seed, rank=rank,
            run_name=f"bench_{name}_{windows}_{rank}_{seed}", **self.settings(name), **before,
        )  # fmt: skip

    def settings(self, name: str) -> dict[str, Any]:
        options, twice = self.options, 2 if name == "reflow_long" else 1
        own = {"steps": options.steps * twice, "batch_size": options.batch, "warmup_steps": options.warmup}
        return RECIPE | OBJECTIVES[name] | own

    def straightness(self, model: Any, seed: int) -> float:
        """Mean over paths of the first prompts, without guidance."""
        count = self.options.paths
        noise = torch.randn(count, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))
        entries = gather_prompts(["\n".join(self.prompts[:count])], "", self.clip, None).entries
        with host.training(model) as network, torch.no_grad():
            conditions = [network.condition([entry], tuple(noise.shape[1:])) for entry in entries]
            velocity = CfgVelocity(network, network.alignment, join(conditions))
            found = straightness(follow(velocity, noise, flow_grid("uniform", self.options.teacher_steps)))
        return round(float(found.mean()), 5)

    def few(self, model: Any, steps: int, seed: int) -> Tensor:
        return self.sample(model, "euler", flow_sigmas(model, {"grid": "uniform"}, steps), seed)

    def teacher(self, seed: int) -> Tensor:
        if seed not in self.teachers:
            sigmas = flow_sigmas(self.flow, {"grid": "uniform"}, self.options.teacher_steps)
            self.teachers[seed] = self.sample(self.flow, "euler", sigmas, seed, CFG)
        return self.teachers[seed]

    def sample(self, model: Any, sampler: str, sigmas: Tensor, seed: int, cfg: float = 1.0) -> Tensor:
        noise = torch.randn(len(self.prompts), 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))
        latents = []
        for first in range(0, len(noise), BATCH):
            part, rows = noise[first : first + BATCH], slice(first, first + BATCH)
            conditions = [
                [value[rows], {"pooled_output": extra["pooled_output"][rows]}] for value, extra in self.positive
            ]
            latents.append(comfy.sample.sample_custom(
                model, part, cfg, comfy.samplers.sampler_object(sampler), sigmas, conditions, self.negative,
                torch.zeros_like(part), disable_pbar=True, seed=seed,
            ))  # fmt: skip
        return torch.cat(latents)

    def row(self, name: str, latents: Tensor, nfe: int, seed: int, **about: Any) -> dict[str, Any]:
        images, teacher = self.decode(latents), self.teacher(seed)
        read = reader.read_attributes(images)
        right = [got[key] == word for got, words in zip(read, self.wanted) for key, word in words.items()]
        features = reader.features(images)
        to_teacher = evaluate.frechet_distance(features, reader.features(self.decode(teacher)))
        return {
            "model": name, "nfe": nfe, "cfg": 1.0, "seed": seed, **about,
            "distance": round(float((latents - teacher).square().mean()), 5),
            "accuracy": round(sum(right) / len(right), 4),
            "frechet": round(evaluate.frechet_distance(features, self.renders), 2),
            "frechet_teacher": round(to_teacher, 2),
        }  # fmt: skip

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self.vae.decode(part).float().cpu() for part in latents.split(BATCH)])

    def say(self, text: str) -> None:
        say(f"{time.monotonic() - self.start:6.0f} s  {text}")
