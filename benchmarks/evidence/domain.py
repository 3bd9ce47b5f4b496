"""Adaptation to pictures that nobody here made: emoji glyphs with their Unicode names as captions.

    none       the demo model, converted
    diff2flow, diffusion, naive_fm, integer_timesteps, stock  a LoRA of each, as in `bench objectives`
    glyphs     no model: glyphs of the training set, compared with those held out as samples are

A fixed hash of the name says which glyphs are held out. They are the prompts of the samples, too: Euler with equal
steps (stock: ddim), without guidance. `frechet` is the distance to held-out glyphs on features of a fixed random
network, which has seen neither glyphs nor our scenes. `velocity_error` and `eps_error` are mean squared errors on the
held-out glyphs: of the velocity at uniform flow times, which diff2flow is trained on, and of eps at uniform timesteps,
which diffusion is (of naive_fm eps follows from its velocity). Learning rates are chosen by the rule of
`bench_shared/rates.py`: least `frechet` to the glyphs of the set `tune`. Budgets are steps of a run at a constant rate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import comfy.utils
import torch
from bench_shared import RESULTS, Part, Rows, add_common_arguments, kept, output_in
from bench_shared.checkpoints import add_model_argument, load_checkpoint, named
from bench_shared.domain import report
from bench_shared.domain.features import features
from bench_shared.domain.glyphs import Glyph, draw, font_file, is_blank, named_glyphs, set_of
from bench_shared.lora_runs import STOCK, WIDGETS, LoraRuns
from bench_shared.rates import TUNING_SEED, tuned
from bench_shared.views import View, as_flow, as_it_is, decode, noise_like, with_lora
from torch import Tensor

from devtools.console import say
from diff2flow_kit.d2f_core import FlowTime, Interpolant, per_item
from diff2flow_kit.demo import evaluate, networks
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.network.cfg_velocity import CfgVelocity
from diff2flow_kit.nodes.network.conditionings import join

METHODS = (*WIDGETS, STOCK)
SIDE, BATCH, DRAWS = networks.IMAGE_SIZE, 32, 4
plot = partial(report.plot, methods=METHODS)
__all__ = ["METHODS", "add_arguments", "plot", "run", "stem"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "domain")
    add_model_argument(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[4, 16, 64])
    parser.add_argument("--budgets", nargs="+", type=int, default=[50, 100, 200])
    parser.add_argument("--rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--tuning", type=int, nargs=2, default=[16, 50], help="rank and steps of the choice of rates")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--nfe", type=int, default=10)
    parser.add_argument("--glyphs", type=int, default=1000, help="at most, of each set")


def stem(options: argparse.Namespace) -> str:
    """Name of the results."""
    return named("domain", options)


def run(options: argparse.Namespace) -> Rows:
    if options.quick:
        vars(options).update(ranks=[2], budgets=[1, 2], rates=[1e-3, 2e-3], tuning=[2, 1], nfe=1, glyphs=8, seeds=[0])
    torch.set_num_threads(options.threads)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode(), output_in(options.work / "output"):
        bench = Bench(options)
        rows = bench.part("none", 0, 0)
        rates = {name: bench.tune(name) for name in options.methods}
        for seed in options.seeds:
            for name in options.methods:
                rows += [row for rank in options.ranks for row in bench.part(name, seed, rank, rates[name]["rate"])]
    rows += list(rates.values())
    if not options.quick:
        (RESULTS / f"{stem(options)}.md").write_text(report.markdown(rows, METHODS), encoding="utf-8")
    return rows


class Glyphs:
    """A set of glyphs: pictures (N, H, W, 3), latents, CONDITIONING of one row each, and features."""

    def __init__(self, glyphs: list[Glyph], images: Tensor, clip: Any, vae: Any) -> None:
        self.glyphs, self.images = glyphs, images
        self.latents = torch.cat([vae.encode(part) for part in images.split(BATCH)]).float().cpu()
        self.positive = evaluate.encode_prompts(clip, [glyph.name for glyph in glyphs])
        self.features = features(images)

    def __len__(self) -> int:
        return len(self.glyphs)


class Bench:
    """Model and glyphs; makes parts of the result."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.monotonic()
        self.model, self.clip, self.vae = load_checkpoint(options.model)
        self.negative = evaluate.encode_prompts(self.clip, [""])
        self.sets = {name: self.glyphs(name) for name in ("train", "tune", "held_out")}
        data = self.sets["train"]
        self.runs = LoraRuns(self.model, data.latents, data.positive[0][0], options.batch)
        self.say(", ".join(f"{len(glyphs)} glyphs of {name}" for name, glyphs in self.sets.items()))

    def glyphs(self, name: str) -> Glyphs:
        """The glyphs of a set whose names fit into one chunk of the text encoder, and that the font has."""
        chosen = [glyph for glyph in named_glyphs() if set_of(glyph.name) == name]
        chosen = [glyph for glyph in chosen if len(self.clip.tokenize(glyph.name)["l"]) == 1]
        images = draw(chosen, font_file(), SIDE)
        there = (~is_blank(images)).nonzero().flatten()[: self.options.glyphs]
        return Glyphs([chosen[i] for i in there], images[there], self.clip, self.vae)

    def part(self, name: str, seed: int, rank: int, rate: float = 0.0) -> Rows:
        """Rows of a run, of the work folder if it was finished before."""
        skipped = ("seeds", "work", "quick", "ranks", "rates", "methods", "tuning")
        wanted = {k: v for k, v in vars(self.options).items() if k not in skipped} | {"rate": rate}
        make = self.untrained if name == "none" else partial(self.trained, name, seed, rank, rate)
        found: Part = kept(self.options.work, f"{name}-{rank}-{seed}", wanted, lambda: {"rows": list(make())})
        self.say(f"{name}, rank {rank}, seed {seed}")
        return found["rows"]

    def tune(self, name: str) -> dict[str, Any]:
        """The row of the choice of a method's learning rate."""
        rank, steps = self.options.tuning

        def error(rate: float) -> float:
            run_name = f"bench_{self.options.model}_{name}_tune_{rate:g}"
            settings = {"seed": TUNING_SEED, "learning_rate": rate, "rank": rank}
            ((_, lora),) = self.runs.budgets(name, run_name, [steps], **settings)
            return self.frechet(self.view(name, lora), "tune", TUNING_SEED)

        wanted = {
            k: v for k, v in vars(self.options).items() if k in ("model", "rates", "tuning", "batch", "nfe", "glyphs")
        }
        found = kept(
            self.options.work, f"rate-{name}", wanted, lambda: {"rows": [tuned(name, self.options.rates, error)]}
        )
        self.say(f"{name}: learning rate {found['rows'][0]['rate']:g}")
        return found["rows"][0]

    def untrained(self) -> Iterator[dict[str, Any]]:
        """Glyphs of the training set, and the model as it is."""
        about, held_out = {"rank": 0, "budget": 0, "seed": 0}, self.sets["held_out"]
        some = self.sets["train"].features[: len(held_out)]
        floor = round(evaluate.frechet_distance(some, held_out.features), 4)
        yield {"method": "glyphs", **about, "frechet": floor}
        yield {"method": "none", **about, **self.measure(as_flow(self.model), 0)}

    def trained(self, name: str, seed: int, rank: int, rate: float) -> Iterator[dict[str, Any]]:
        """A row for each budget."""
        run_name = f"bench_{self.options.model}_{name}_{rank}_{seed}"
        settings = {"seed": seed, "learning_rate": rate, "rank": rank}
        for budget, lora in self.runs.budgets(name, run_name, self.options.budgets, **settings):
            figures = self.measure(self.view(name, lora), seed)
            yield {"method": name, "rank": rank, "budget": budget, "seed": seed, **figures}

    def view(self, name: str, lora: Any) -> View:
        """How a LoRA is sampled."""
        model = with_lora(self.model, lora)
        return as_it_is(model) if name == STOCK else as_flow(model)

    def measure(self, view: View, seed: int) -> dict[str, float]:
        """The figures of a model on held-out glyphs."""
        return {**self.errors(view.model), "frechet": round(self.frechet(view, "held_out", seed), 4)}

    def frechet(self, view: View, name: str, seed: int) -> float:
        """Distance between samples under the names of a set and the set."""
        asked = self.sets[name]
        noise = noise_like(len(asked), SIDE, SIDE, seed)
        latents = view.sample(noise, self.options.nfe, 1.0, asked.positive, self.negative, seed)
        return evaluate.frechet_distance(features(decode(self.vae, latents)), asked.features)

    def errors(self, model: Any) -> dict[str, float]:
        """Mean squared errors of velocity and eps on held-out glyphs, for any model the same noise and flow times."""
        held_out, generator = self.sets["held_out"], torch.Generator().manual_seed(0)
        with host.training(model) as network, torch.no_grad():
            x0 = network.latents(held_out.latents)
            entries = [[row[None], {}] for row in held_out.positive[0][0].clone()]
            conditions = [network.condition([entry], tuple(x0.shape[1:])) for entry in entries]
            own = host.alignment_of(self.model)
            uniform = (torch.arange(len(x0) * DRAWS, dtype=torch.float64) + 0.5) / (len(x0) * DRAWS)
            order = torch.randperm(len(uniform), generator=generator)
            totals = {"velocity_error": 0.0, "eps_error": 0.0}
            for first in range(0, len(x0) * DRAWS, BATCH):
                rows = torch.arange(first, min(first + BATCH, len(x0) * DRAWS))
                items = rows % len(x0)
                eps = torch.randn(x0[items].shape, generator=generator).to(x0)
                velocity = CfgVelocity(network, network.alignment, join([conditions[i] for i in items]))
                u = uniform[order[rows]]
                for key, t in (("velocity_error", u), ("eps_error", own.flow_time(own.schedule.drawn(u)))):
                    pair = Interpolant(x0[items], eps, t)
                    wrong = velocity(t, pair.x_fm) - (pair.x0 - pair.eps)
                    scale = per_item(FlowTime.of(t).t, x0) if key == "eps_error" else 1.0
                    totals[key] += float((scale * wrong).square().mean((1, 2, 3)).sum())
        return {key: round(total / (len(x0) * DRAWS), 5) for key, total in totals.items()}

    def say(self, text: str) -> None:
        say(f"{time.monotonic() - self.start:6.0f} s  {text}")
