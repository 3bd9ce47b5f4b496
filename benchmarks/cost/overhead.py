"""What the pack costs beside the network: bare calls of it, the stock KSampler, and our ODE sampler.

    bare    the network alone: as many calls as the sampler makes, on the same batch (CFG doubles it)
    stock   ComfyUI's KSampler on the diffusion model
    ours    our sampler on the converted model

The three take turns, so that what else the machine does hits all of them alike. Figures are medians over
the rounds, ratios are medians of the ratios within a round, a call of the network: of the processor's
time where the network runs on it, as other programs do not add to that, else of the seconds. NFE counts
calls of the network, one for a CFG pair.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from diff2flow_kit.d2f_core import ADAPTIVE_METHODS
from diff2flow_kit.demo import networks
from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.sampling.ode import OdeSampler

Runner = Callable[[], Any]
Times = tuple[float, float]  # seconds by the clock, seconds of the processor
CFG = 4.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, default=networks.WEIGHTS, help="folder of the demo model's weights")
    parser.add_argument("--solvers", nargs="+", default=["euler", "heun", "dopri5"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=12, help="latent height and width")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="of torch; 1 measures steadily on a busy machine")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    torch.set_num_threads(options.threads)
    model = networks.load_model(options.weights)
    rows = []
    for batch in options.batches:
        for solver in options.solvers:
            rows += measure(Case(model, solver, batch, options.steps, options.size), options.rounds)
    return rows


@dataclass(frozen=True)
class Case:
    """One setting in which the runners compete."""

    model: Any
    solver: str
    batch: int
    steps: int
    size: int

    @property
    def width(self) -> int:
        return self.model.model.model_config.unet_config["context_dim"]

    def noise(self) -> Tensor:
        shape = (self.batch, 4, self.size, self.size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def conditioning(self, seed: int) -> list[Any]:
        return [[torch.randn(1, 24, self.width, generator=torch.Generator().manual_seed(seed)), {}]]

    def stock(self) -> Tensor:
        noise = self.noise()
        return comfy.sample.sample(
            self.model, noise, self.steps, CFG, self.solver, "simple", self.conditioning(2), self.conditioning(3),
            torch.zeros_like(noise), disable_pbar=True, seed=1,
        )  # fmt: skip

    def ours(self) -> Tensor:
        model, noise = host.convert(self.model), self.noise()
        sigmas = host.stock_sigmas(model, "simple", self.steps)
        return comfy.sample.sample_custom(
            model, noise, CFG, host.make_sampler(OdeSampler(self.solver)), sigmas, self.conditioning(2),
            self.conditioning(3), torch.zeros_like(noise), disable_pbar=True, seed=1,
        )  # fmt: skip

    def bare(self, calls: int) -> Tensor:
        network, device = self.model.model.diffusion_model, self.model.load_device
        x = torch.cat([self.noise()] * 2).to(device)
        context = torch.cat([self.conditioning(seed)[0][0] for seed in (3, 2)]).repeat_interleave(self.batch, 0)
        context = context.to(device)
        for timestep in torch.linspace(999, 0, calls).tolist():
            out = network(x, x.new_full((len(x),), timestep), context=context)
        return out


def measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    """Rows of one case. An adaptive solver has no stock counterpart; bare makes as many calls as it did."""
    runners: dict[str, Runner] = {"ours": case.ours}
    if case.solver not in ADAPTIVE_METHODS:
        runners["stock"] = case.stock
    with torch.inference_mode():
        nfe = {name: count_calls(case, runner) for name, runner in runners.items()}
        runners["bare"] = lambda: case.bare(nfe["ours"])
        nfe["bare"] = nfe["ours"]
        times = take_turns(runners, rounds)
    order = [name for name in ("bare", "stock", "ours") if name in runners]
    return [row(case, name, nfe, times) for name in order]


def row(case: Case, name: str, calls: dict[str, int], times: dict[str, list[Times]]) -> dict[str, Any]:
    nfe = calls[name]
    seconds, cpu_seconds = (round(median(column), 4) for column in zip(*times[name]))
    result = {"runner": name, "solver": case.solver, "batch": case.batch, "nfe": nfe, "seconds": seconds}
    result["cpu_seconds"] = cpu_seconds
    for other in ("stock", "bare"):
        compared = name == "ours" and other in times
        result[f"vs_{other}"] = ratio(case, times[name], times[other], nfe / calls[other]) if compared else None
    return result


def ratio(case: Case, mine: list[Times], theirs: list[Times], calls: float) -> float:
    """Median over the rounds of our time a call to theirs; `calls`: ours to theirs (stock heun ends with Euler)."""
    clock = 1 if case.model.load_device.type == "cpu" else 0
    return round(median(a[clock] / b[clock] / calls for a, b in zip(mine, theirs)), 3)


def count_calls(case: Case, runner: Runner) -> int:
    """Calls of the network in one run, which also warms up."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = case.model.model.diffusion_model.register_forward_pre_hook(count)
    try:
        runner()
    finally:
        handle.remove()
    return calls


def take_turns(runners: dict[str, Runner], rounds: int) -> dict[str, list[Times]]:
    """Times of every run, {name: one a round}; each round starts with another runner."""
    times: dict[str, list[Times]] = {name: [] for name in runners}
    names = list(runners)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(seconds_of(runners[name]))
    return times


def seconds_of(runner: Runner) -> Times:
    start, cpu_start = time.perf_counter(), time.process_time()
    runner()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu_start


def plot(rows: list[dict[str, Any]], axes: Any) -> None:
    """Seconds of the three runners, a group of bars a case."""
    cases = list(dict.fromkeys((row["solver"], row["batch"]) for row in rows))
    for i, runner in enumerate(("bare", "stock", "ours")):
        mine = [row for row in rows if row["runner"] == runner]
        places = [cases.index((row["solver"], row["batch"])) + 0.27 * (i - 1) for row in mine]
        bars = axes.bar(places, [row["seconds"] for row in mine], 0.25, label=runner)
        axes.bar_label(bars, fmt="%.3g", fontsize=8)
    nfe = {(row["solver"], row["batch"]): row["nfe"] for row in rows}
    labels = [f"{solver}, batch {batch}\nNFE {nfe[solver, batch]}" for solver, batch in cases]
    axes.set_xticks(range(len(cases)), labels)
    axes.set_ylabel("seconds (median)")
    axes.legend()
