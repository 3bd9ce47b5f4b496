"""The demo model at sizes that it was not trained at, before and after a LoRA that was trained at that size.

    none, none_ddim  the model without a LoRA, converted with Euler, and as it is with ddim
    diff2flow, diffusion, diffusion_ddim, naive_fm, integer_timesteps  a LoRA of each, as in `bench objectives`
    renders          no model: fresh renders, evaluated as the samples are

Sizes are fractions of the model's own (`bench_shared/resolution/sizes.py`): 128 x 128 and 64 x 160 where that is 96,
height by width. `accuracy` is the share of the attributes, of those that a prompt names, that the reader reads right in
the square in the middle. `duplicated` is the share of pictures that show the colour of their one solid in more than one
place, of prompts for a colour that the room never has. `frechet` is the distance to renders of that size, on features
of the reader. Learning rates are chosen for each objective and size by the rule of `bench_shared/rates.py`: least
`frechet` to renders of other scenes, after half the steps. NFE counts calls of the network, one for a CFG pair.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import comfy.utils
import numpy as np
import torch
from bench_shared import RESULTS, Part, Rows, add_common_arguments, grid, kept, output_in, some_scenes
from bench_shared.checkpoints import add_model_argument, load_checkpoint, named
from bench_shared.lora_runs import WIDGETS, LoraRuns
from bench_shared.rates import TUNING_SEED, tuned
from bench_shared.resolution.report import markdown, plot
from bench_shared.resolution.sizes import FRACTIONS, duplicated, middle, renders, size_of
from bench_shared.views import View, as_flow, as_it_is, decode, noise_like, with_lora
from torch import Tensor

from devtools.console import say
from diff2flow_kit.demo import captions, evaluate, reader

CFG, SHOWN = 3.0, 8
_TRAIN, _ASK, _COMPARE, _TUNE, _FLOOR = 31, 32, 33, 34, 35  # streams of random numbers
__all__ = ["add_arguments", "markdown", "plot", "run", "stem"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "resolution")
    add_model_argument(parser)
    parser.add_argument("--sizes", nargs="+", choices=list(FRACTIONS), default=list(FRACTIONS))
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scenes", type=int, default=256, help="in the training set")
    parser.add_argument("--images", type=int, default=96, help="that a model is evaluated on")
    parser.add_argument("--references", type=int, default=512, help="renders to compare with")
    parser.add_argument("--nfe", type=int, nargs="+", default=[4, 25])


def stem(options: argparse.Namespace) -> str:
    """Name of the results."""
    return named("resolution", options)


def run(options: argparse.Namespace) -> Rows:
    if options.quick:
        vars(options).update(steps=2, rates=[1e-3, 2e-3], rank=2, batch=2, scenes=4, images=SHOWN, references=16)
        vars(options).update(nfe=[1, 2], seeds=[0])
    torch.set_num_threads(options.threads)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode(), output_in(options.work / "output"):
        parts = [part for size in options.sizes for part in Bench(options, size).parts()]
    rows = [row for part in parts for row in part["rows"]]
    if not options.quick:
        (RESULTS / f"{stem(options)}.md").write_text(markdown(rows), encoding="utf-8")
        for size in options.sizes:
            shown = {name: images for part in parts for name, images in part["shown"].items() if part["size"] == size}
            grid(shown).save(RESULTS / f"{stem(options)}_{size}_grid.png")
    return rows


class Bench:
    """Model, training set and references of one size."""

    def __init__(self, options: argparse.Namespace, size: str) -> None:
        self.options, self.size, self.start = options, size, time.monotonic()
        self.height, self.width = size_of(size)
        self.label = f"{self.height}x{self.width}"
        self.model, self.clip, self.vae = load_checkpoint(options.model)
        self.negative = evaluate.encode_prompts(self.clip, [""])
        self.asked, self.references = some_scenes(_ASK, options.images), {}
        self.prompts, self.wanted = evaluate.prompts_for(self.asked)
        self.positive = evaluate.encode_prompts(self.clip, self.prompts)
        self.runs = LoraRuns(self.model, *self.training_set(), options.batch)

    def training_set(self) -> tuple[Tensor, Tensor]:
        """Latents of renders of this size, and their encoded captions."""
        chosen, rng = some_scenes(_TRAIN, self.options.scenes), np.random.default_rng(_TRAIN)
        images = renders(chosen, self.height, self.width)
        latents = torch.cat([self.vae.encode(part) for part in images.split(32)]).float().cpu()
        texts = [captions.caption(scene, rng) for scene in chosen]
        return latents.clone(), evaluate.encode_prompts(self.clip, texts)[0][0].float().cpu().clone()

    def parts(self) -> Iterator[Part]:
        """The choices of rates, what needs no training, and a LoRA of each objective, for each seed."""
        choices = {name: self.kept(f"rate-{name}", None, partial(self.choice, name)) for name in WIDGETS}
        yield from choices.values()
        for seed in self.options.seeds:
            yield self.kept(f"none-{seed}", None, partial(self.untrained, seed))
            for name, choice in choices.items():
                rate = choice["rows"][0]["rate"]
                yield self.kept(f"{name}-{seed}", rate, partial(self.trained, name, seed, rate))

    def kept(self, name: str, rate: float | None, make: Any) -> Part:
        """A part, of the work folder if it was finished before."""
        wanted = {k: v for k, v in vars(self.options).items() if k not in ("seeds", "work", "quick", "sizes")}
        part = kept(self.options.work, f"{self.size}-{name}", [wanted, rate], make)
        say(f"{time.monotonic() - self.start:6.0f} s  {self.label}, {name}")
        return {**part, "size": self.size}

    def choice(self, name: str) -> Part:
        """The choice of an objective's learning rate at this size."""

        def error(rate: float) -> float:
            lora = self.lora(name, f"tune_{rate:g}", TUNING_SEED, rate, max(1, self.options.steps // 2))
            images = self.images(as_flow(with_lora(self.model, lora)), max(self.options.nfe), TUNING_SEED)
            return self.frechet(images, _TUNE)

        row = tuned(name, self.options.rates, error)
        return {"rows": [{**row, "tuned": f"{name}, {self.label}"}], "shown": {}}

    def lora(self, name: str, run_name: str, seed: int, rate: float, steps: int) -> Any:
        """LORA_MODEL of an objective."""
        run_name = f"bench_{self.options.model}_{self.size}_{name}_{run_name}"
        settings = {"learning_rate": rate, "rank": self.options.rank, "seed": seed}
        ((_, lora),) = self.runs.budgets(name, run_name, [steps], **settings)
        return lora

    def untrained(self, seed: int) -> Part:
        """The model without a LoRA, and renders."""
        found = self.evaluate({"none": as_flow(self.model), "none_ddim": as_it_is(self.model)}, seed)
        fresh = some_scenes(_FLOOR, self.options.images, seed)
        floor = {"frechet": round(self.frechet(renders(fresh, self.height, self.width), _COMPARE), 2)}
        floor |= self.counted(renders(self.asked, self.height, self.width))
        about = {"size": self.label, "method": "renders", "nfe": max(self.options.nfe), "seed": seed}
        return {**found, "rows": [*found["rows"], {**about, **floor}]}

    def trained(self, name: str, seed: int, rate: float) -> Part:
        """A LoRA, evaluated."""
        model = with_lora(self.model, self.lora(name, str(seed), seed, rate, self.options.steps))
        views = {name: as_flow(model)}
        return self.evaluate({**views, "diffusion_ddim": as_it_is(model)} if name == "diffusion" else views, seed)

    def evaluate(self, views: dict[str, View], seed: int) -> Part:
        """A row for each way of sampling and number of calls; the first images at the most calls."""
        rows, shown = [], {}
        for method, view in views.items():
            for nfe in self.options.nfe:
                images = self.images(view, nfe, seed)
                about = {"size": self.label, "method": method, "nfe": nfe, "seed": seed}
                rows.append({**about, **self.counted(images), "frechet": round(self.frechet(images, _COMPARE), 2)})
            shown.update({method: images[:SHOWN].clone()} if seed == self.options.seeds[0] else {})
        return {"rows": rows, "shown": shown}

    def images(self, view: View, nfe: int, seed: int) -> Tensor:
        """One picture a prompt, (N, height, width, 3); the same noise for every method."""
        noise = noise_like(len(self.prompts), self.height, self.width, seed)
        return decode(self.vae, view.sample(noise, nfe, CFG, self.positive, self.negative, seed))

    def counted(self, images: Tensor) -> dict[str, float]:
        """What is read, and what appears twice, of pictures for the prompts."""
        read = zip(reader.read_attributes(middle(images)), self.wanted)
        right = [got[name] == word for got, words in read for name, word in words.items()]
        twice = duplicated(images, [scene.color for scene in self.asked])
        return {"accuracy": round(sum(right) / len(right), 4), "duplicated": round(twice, 4)}

    def frechet(self, images: Tensor, stream: int) -> float:
        """Distance to renders of a stream of scenes, which are made once."""
        if stream not in self.references:
            fresh = some_scenes(stream, self.options.references)
            self.references[stream] = reader.features(renders(fresh, self.height, self.width))
        return evaluate.frechet_distance(reader.features(images), self.references[stream])
