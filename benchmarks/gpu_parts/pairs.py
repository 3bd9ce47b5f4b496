"""Making reflow pairs against plain sampling of the same batches, in turns; and training on a base in fp8."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from trainers.ours import Ours

from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.network.conditionings import entries_of
from diff2flow_kit.nodes.reflow.pair_generator import ReflowPairGenerator, ReflowPairSettings
from diff2flow_kit.nodes.reflow.prompts import Prompts
from diff2flow_kit.nodes.sampling.ode import OdeSampler
from diff2flow_kit.nodes.sampling.sigmas import flow_sigmas

from .cases import Case, free, random_model
from .meter import ratio, take_turns
from .trainer import measured

CFG = 4.0


def rows(case: Case) -> Iterator[dict[str, Any]]:
    count, batch, steps, rounds = (4, 2, 2, 1) if case.quick else (16, 8, 10, 3)
    with torch.inference_mode():
        times = take_turns(runners_of(case, count, batch, steps), rounds)
    for name, seconds in times.items():
        against = {"vs_sampling": ratio(times["sampling"], seconds)} if name == "pairs" else {}
        yield {"runner": name, "batch": batch, "steps_per_s": round(count * steps / median(seconds), 2), **against}
    free()
    if case.model != "demo":
        trainer = Ours(Fp8(case.part, case.model, case.quick))
        yield {"runner": "ours_fp8", "dtype": "float8_e4m3fn", **measured(trainer, case.quick)}


@dataclass(frozen=True)
class Fp8(Case):
    """The case on weights of 8 bits that compute in bf16."""

    def load(self) -> Any:
        return random_model(self.model, torch.float8_e4m3fn)


def runners_of(case: Case, count: int, batch: int, steps: int) -> dict[str, Any]:
    """Name -> `count` latents from noise."""
    model = case.load()
    positive, negative = case.conditionings()[:2]
    side, flow = case.size // 8, host.convert(model, "noise")
    sigmas = flow_sigmas(flow, {"grid": "uniform"}, steps)
    sampler = host.make_sampler(OdeSampler("euler"))
    numbers = itertools.count()

    def sampling() -> None:
        for _ in range(count // batch):
            empty = {"samples": torch.zeros(batch, 4, side, side)}
            host.sample(flow, empty, positive, negative, CFG, sampler, sigmas, 0)

    def pairs() -> None:
        name = f"bench_gpu_{next(numbers)}"
        settings = ReflowPairSettings(
            name, count, steps, CFG, "euler", case.size, case.size, batch, 0, "auto", "fp16", shard_size=256
        )
        ReflowPairGenerator(model, settings, Prompts(["caption"], entries_of([positive])), negative).run()

    return {"sampling": sampling, "pairs": pairs}
