"""The time map of the published code beside ours, without training: does it matter to the samples?

    exact      the network's own table, `log sigma_ve` linear between its rows, as in ComfyUI
    published  `bench_shared/published.py`: off by one, alpha and sigma interpolated apart

gaussian   for Gaussian data of deviation 1/2 the ideal network is known: relative error of the velocity at a flow time
sampler    the demo model, Euler with equal steps from t = 0; the same noise for both. `distance` is the root mean
           squared difference of the latents to those of the exact map with 50 steps of Heun's method; `accuracy` the
           share of the attributes, of those that a prompt names, that are read right; `frechet` that to renders.
           NFE counts calls of the network, one for a CFG pair
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import comfy.utils
import torch
from bench_shared import RESULTS, Part, Rows, add_common_arguments, bars, kept, output_in, select, some_scenes, spread
from bench_shared.checkpoints import add_model_argument, load_checkpoint, named
from bench_shared.published import PublishedTimeMap
from bench_shared.views import decode, noise_like
from torch import Tensor

from devtools.console import say
from diff2flow_kit.d2f_core import FlowAlignment, FlowTime, flow_grid, solve
from diff2flow_kit.d2f_core.prediction import Coefficients
from diff2flow_kit.demo import evaluate, networks, reader, render
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.network.cfg_velocity import CfgVelocity
from diff2flow_kit.nodes.network.conditionings import join
from diff2flow_kit.nodes.reflow.prompts import gather_prompts

MAPS = {"exact": lambda alignment: alignment, "published": PublishedTimeMap}
"""Name -> of the network's alignment, what maps between flow and network."""
TIMES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.97, 0.98)
DEVIATION, FINE_STEPS, BATCH, SIDE = 0.5, 50, 32, networks.IMAGE_SIZE
_ASK, _COMPARE = 21, 22  # streams of random numbers: scenes of the prompts, and to compare with
__all__ = ["add_arguments", "markdown", "plot", "run", "stem"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "time_map")
    add_model_argument(parser)
    parser.add_argument("--nfe", type=int, nargs="+", default=[2, 4, 10, 25, 50])
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--references", type=int, default=1024, help="renders to compare with")


def stem(options: argparse.Namespace) -> str:
    """Name of the results."""
    return named("time_map", options)


def run(options: argparse.Namespace) -> Rows:
    if options.quick:
        vars(options).update(nfe=[1, 2], images=4, references=32, seeds=[0])
    torch.set_num_threads(options.threads)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode(), output_in(options.work / "output"):
        bench = Bench(options)
        parts = [bench.part(seed) for seed in options.seeds]
    rows = gaussian_rows(bench.alignment) + [row for part in parts for row in part["rows"]]
    if not options.quick:
        (RESULTS / f"{stem(options)}.md").write_text(markdown(rows), encoding="utf-8")
    return rows


def gaussian_rows(alignment: FlowAlignment) -> Rows:
    """Relative error of each map's velocity at each of TIMES, for the ideal network of Gaussian data."""
    return [
        {"part": "gaussian", "map": name, "t": t, "error": float(f"{gaussian_error(alignment, name, t):.3g}")}
        for name in MAPS
        for t in TIMES
    ]


def gaussian_error(alignment: FlowAlignment, name: str, t: float) -> float:
    """``|velocity - ideal| / |ideal|`` for a state of 1; all is linear in the state."""
    coordinates, x = MAPS[name](alignment), torch.ones(1, 1, dtype=torch.float64)
    time_ = FlowTime.of(torch.tensor([t], dtype=torch.float64))
    shown, timestep = coordinates.to_diffusion(x, time_), coordinates.timestep(time_)
    alpha, sigma = FlowTime.of(alignment.flow_time(timestep)).coefficients().unbind(-1)  # what the network believes
    gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
    x0 = gain * shown
    output = alignment.row.target(x0, (shown - alpha * x0) / sigma, Coefficients(alpha, sigma))
    s, t_ = time_.s, time_.t
    ideal = (t_ * DEVIATION**2 - s) / (t_**2 * DEVIATION**2 + s**2) * x
    return float(((coordinates.velocity(output, x, time_) - ideal) / ideal).abs())


class Bench:
    """Model, prompts and references."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.monotonic()
        self.model, self.clip, self.vae = load_checkpoint(options.model)
        self.alignment = host.alignment_of(self.model)
        self.prompts, self.wanted = evaluate.prompts_for(some_scenes(_ASK, options.images))
        self.negative = evaluate.encode_prompts(self.clip, [""])
        self.renders = reader.features(render.render_batch(some_scenes(_COMPARE, options.references))[0])

    def part(self, seed: int) -> Part:
        """Rows of a seed, of the work folder if they were made before."""
        wanted = {k: v for k, v in vars(self.options).items() if k not in ("seeds", "work", "quick")}
        part = kept(self.options.work, f"sampler-{seed}", wanted, lambda: {"rows": list(self.rows(seed))})
        say(f"{time.monotonic() - self.start:6.0f} s  seed {seed}")
        return part

    def rows(self, seed: int) -> Iterator[dict[str, Any]]:
        """A row for each map and number of calls."""
        noise = noise_like(len(self.prompts), SIDE, SIDE, seed)
        fine = self.sample("exact", noise, FINE_STEPS, "heun")
        for name in MAPS:
            for nfe in self.options.nfe:
                latents = self.sample(name, noise, nfe, "euler")
                images = decode(self.vae, self.model.model.process_latent_out(latents))
                read = zip(reader.read_attributes(images), self.wanted)
                right = [got[key] == word for got, words in read for key, word in words.items()]
                found = {"distance": round(float((latents - fine).square().mean().sqrt()), 4)}
                found["accuracy"] = round(sum(right) / len(right), 4)
                found["frechet"] = round(evaluate.frechet_distance(reader.features(images), self.renders), 2)
                yield {"part": "sampler", "map": name, "nfe": nfe, "seed": seed, **found}

    def sample(self, name: str, noise: Tensor, steps: int, method: str) -> Tensor:
        """Latents in the model's scale, from noise (N, C, h, w)."""
        entries, found = gather_prompts(["\n".join(self.prompts)], "", self.clip, None).entries, []
        with host.training(self.model) as network, torch.no_grad():
            coordinates, shape = MAPS[name](network.alignment), tuple(noise.shape[1:])
            conditions = [network.condition([entry], shape) for entry in entries]
            null = network.condition(self.negative, shape)
            for first in range(0, len(noise), BATCH):
                condition = join(conditions[first : first + BATCH])
                velocity = CfgVelocity(network, coordinates, condition, null, self.options.cfg)
                part = noise[first : first + BATCH].clone()
                found.append(solve(velocity, part, flow_grid("uniform", steps), method))
        return torch.cat(found)


def markdown(rows: Rows) -> str:
    """A table of the closed form, and one of the samples."""
    lines = ["| relative error of the velocity | " + " | ".join(f"t = {t:g}" for t in TIMES) + " |"]
    lines.append("| --- " * (len(TIMES) + 1) + "|")
    for name in MAPS:
        errors = [select(rows, "error", part="gaussian", map=name, t=t)[0] for t in TIMES]
        lines.append(f"| {name} | {' | '.join(f'{error:.1g}' for error in errors)} |")
    forms = {"distance": ".4f", "accuracy": ".3f", "frechet": ".1f"}
    lines += ["", f"| map | NFE | {' | '.join(forms)} |", "| --- " * (len(forms) + 2) + "|"]
    for name in MAPS:
        for nfe in sorted({row["nfe"] for row in rows if row["part"] == "sampler"}):
            cells = [spread(select(rows, column, map=name, nfe=nfe), form) for column, form in forms.items()]
            lines.append(f"| {name} | {nfe} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def plot(rows: Rows, axes: Any) -> None:
    """Distance to the fine solution over NFE; lines are means, bars go from least to most."""
    calls = sorted({row["nfe"] for row in rows if row["part"] == "sampler"})
    for name in MAPS:
        cells = [select(rows, "distance", map=name, nfe=nfe) for nfe in calls]
        axes.errorbar(calls, *bars(cells), marker="o", markersize=3, capsize=2, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(calls, [str(nfe) for nfe in calls])
    axes.set_xlabel("NFE")
    axes.set_ylabel("distance to the fine solution")
    axes.legend()
