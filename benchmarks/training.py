"""What a step of training costs: our trainer, a bare PyTorch loop, and ComfyUI's own TrainLoraNode.

    bare              forward hooks of rank 8 on every linear and convolution layer, eps loss, AdamW: nothing else
    bare_fused        the same with AdamW as one kernel, as ours has it
    ours              LoRA Trainer (Diff2Flow), for two objectives
    ours_offload      the same with its weights in the main memory (offload)
    ours_compiled     the same with its blocks compiled
    ours_text         the same with adapters of the text encoder, which encodes the captions in every step
    stock             TrainLoraNode in its default mode
    stock_bypass      TrainLoraNode in bypass mode
    stock_as_shipped  TrainLoraNode with nothing changed: bf16, checkpointing

on `demo`, the demo model, and `sd15`, random weights in the true shape of SD1.5. All but the last train in float32,
without checkpointing, all on the same latents and captions. Every runner has a process of its own. Those that fit
into memory together take turns, so that what else the machine does hits all of them alike; a ratio of speeds is the
median of the ratios within a round. `cost_vs_diffusion` compares processor time. `peak_mb` counts from when the model
is loaded, and with it. The row `flat` is a long run of ours with saves and previews: `growth` is that of its memory
after the first tenth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from devtools.console import DevError, say, tail

TRAINERS = Path(__file__).resolve().parent / "trainers"
VARIANTS = ("ours_offload", "ours_compiled", "ours_text")
RUNNERS = ("bare", "bare_fused", "ours", *VARIANTS, "stock", "stock_bypass", "stock_as_shipped")
Turn = tuple[str, str]  # runner, objective
TURNS: dict[str, list[Turn]] = {name: [(name, "diffusion")] for name in RUNNERS}
TURNS["ours"] = [("ours", "diff2flow"), ("ours", "diffusion")]
SAMPLES = 20
"""Measurements of memory in the long run."""


@dataclass(frozen=True)
class Plan:
    """How a model is measured: groups of runners that are in memory together, rounds and steps of each group."""

    size: int
    groups: tuple[tuple[tuple[str, ...], int, int], ...]


PLANS = {
    "demo": Plan(12, ((RUNNERS, 8, 12),)),
    "sd15": Plan(
        16,
        (
            (("bare", "bare_fused", "ours"), 3, 4),
            (VARIANTS, 1, 4),
            (("stock_bypass",), 1, 6),
            (("stock",), 1, 4),
            (("stock_as_shipped",), 1, 3),
        ),
    ),
}


@dataclass
class Result:
    """Rounds of one runner and objective."""

    seconds: list[list[float]] = field(default_factory=list)
    cpu_seconds: list[list[float]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def add(self, answer: dict[str, Any]) -> None:
        self.seconds.append(answer["seconds"])
        self.cpu_seconds.append(answer["cpu_seconds"])
        self.last = answer

    def pooled(self) -> float:
        return median(seconds for each in self.seconds for seconds in each)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=list(RUNNERS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="of torch, in each process")
    parser.add_argument("--rounds", type=int, help="instead of those planned for the model")
    parser.add_argument("--steps", type=int, help="of a round, instead of those planned; the first is not counted")
    parser.add_argument("--flat", type=int, default=1000, help="steps of the long run on the demo model; 0 for none")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for model in options.models:
        results: dict[Turn, Result] = {}
        for runners, rounds, steps in PLANS[model].groups:
            chosen = [name for name in runners if name in options.runners]
            if chosen:
                results |= take_turns(model, chosen, options.rounds or rounds, options.steps or steps, options)
        rows += [row(model, turn, results) for turn in results]
        if model == "demo" and options.flat and "ours" in options.runners:
            rows.append(flat(model, options))
    return rows


class Trainer:
    """A process with one runner in it."""

    def __init__(self, model: str, runner: str, options: argparse.Namespace, log: Path) -> None:
        task = {"model": model, "size": PLANS[model].size, "batch": options.batch, "rank": options.rank}
        order = json.dumps({"runner": runner, "threads": options.threads, "task": task})
        self.runner, self.log = runner, log
        with open(log, "w", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(TRAINERS), order], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True,
            )  # fmt: skip

    def train(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise DevError(f"The trainer {self.runner} stopped; its last words:\n{tail(self.log)}") from None

    def close(self) -> None:
        self.process.communicate()


def start(
    model: str, runners: list[str], options: argparse.Namespace, stack: ExitStack
) -> Iterator[tuple[str, Trainer]]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    for name in runners:
        trainer = Trainer(model, name, options, folder / f"{name}.log")
        stack.callback(trainer.close)
        yield name, trainer


def take_turns(
    model: str, runners: list[str], rounds: int, steps: int, options: argparse.Namespace
) -> dict[Turn, Result]:
    """Train `steps` steps with each in every round; each round starts with another one."""
    turns = [turn for name in runners for turn in TURNS[name]]
    results = {turn: Result() for turn in turns}
    with ExitStack() as stack:
        trainers = dict(start(model, runners, options, stack))
        for i in range(rounds):
            for runner, objective in turns[i % len(turns) :] + turns[: i % len(turns)]:
                answer = trainers[runner].train(steps=steps, objective=objective)
                results[runner, objective].add(answer)
            say(f"{model}: {', '.join(runners)}: round {i + 1} of {rounds}")
    return results


def row(model: str, turn: Turn, results: dict[Turn, Result]) -> dict[str, Any]:
    mine = results[turn]
    runner, objective = turn
    found = {"model": model, "runner": runner, "objective": objective, "steps_per_s": round(1 / mine.pooled(), 4)}
    found |= {name: round(mine.last[name]) for name in ("peak_mb", "loaded_mb")}
    others = {name: results.get((name, "diffusion")) for name in RUNNERS if name != "ours"}
    for name, other in others.items():
        found[f"speed_vs_{name}"] = round(speed(mine, other), 3) if runner == "ours" and other else None
    for name, other in others.items():
        found[f"peak_vs_{name}"] = (
            round(mine.last["peak_mb"] / other.last["peak_mb"], 3) if runner == "ours" and other else None
        )
    found["cost_vs_diffusion"] = round(cost(results), 4) if objective == "diff2flow" else None
    return found | {"growth": None, "settings": mine.last["settings"]}


def speed(mine: Result, other: Result) -> float:
    """Their seconds a step to ours; round by round where they took turns."""
    if len(mine.seconds) != len(other.seconds):
        return other.pooled() / mine.pooled()
    return median(median(b) / median(a) for a, b in zip(mine.seconds, other.seconds))


def cost(results: dict[Turn, Result]) -> float:
    """Processor time of a step of diff2flow to one of diffusion."""
    a, b = (results["ours", objective].cpu_seconds for objective in ("diff2flow", "diffusion"))
    return median(median(x) / median(y) for x, y in zip(a, b))


def flat(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Row of a long run: how much a straight line through its memory grows after the first tenth."""
    every = max(1, options.flat // SAMPLES)
    with ExitStack() as stack:
        ((_, trainer),) = start(model, ["ours_in_full"], options, stack)
        answer = trainer.train(steps=options.flat, objective="diff2flow", every=every)
    memory = answer["memory_mb"][SAMPLES // 10 - 1 :]
    slope, begin = linear_regression(range(len(memory)), memory)
    result = Result()
    result.add(answer)
    found = row(model, ("flat", "diff2flow"), {("flat", "diff2flow"): result, ("ours", "diff2flow"): result,
                                               ("ours", "diffusion"): result})  # fmt: skip
    growth = round(slope * (len(memory) - 1) / begin, 5)
    settings = f"{options.flat} steps; {answer['settings']}"
    return found | {"cost_vs_diffusion": None, "growth": growth, "settings": settings}


def plot(rows: list[dict[str, Any]], axes: Any) -> None:
    """Steps a second of every runner, a group of bars a model."""
    rows = [row for row in rows if row["runner"] != "flat"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    turns = list(dict.fromkeys((row["runner"], row["objective"]) for row in rows))
    for i, turn in enumerate(turns):
        mine = [row for row in rows if (row["runner"], row["objective"]) == turn]
        places = [models.index(row["model"]) + 0.14 * (i - (len(turns) - 1) / 2) for row in mine]
        label = f"{turn[0]}, {turn[1]}" if turn[0] == "ours" else turn[0]
        bars = axes.bar(places, [row["steps_per_s"] for row in mine], 0.13, label=label)
        axes.bar_label(bars, [f"{row['steps_per_s']:.3g}\n{row['peak_mb'] / 1024:.1f} GB" for row in mine], fontsize=7)
    axes.set_xticks(range(len(models)), models)
    axes.set_yscale("log")
    axes.set_ylabel("steps a second")
    axes.legend(fontsize=8)
