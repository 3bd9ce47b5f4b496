"""How fast reflow pairs are made, against the host's sampling of the same batches."""

from __future__ import annotations

import shutil
import time
from statistics import median
from typing import Any

import torch

from diff2flow_kit.nodes import host
from diff2flow_kit.nodes.reflow.pair_generator import ReflowPairGenerator, ReflowPairSettings
from diff2flow_kit.nodes.reflow.prompts import gather_prompts
from diff2flow_kit.nodes.sampling.ode import OdeSampler
from diff2flow_kit.nodes.sampling.sigmas import flow_sigmas


def pair_rate(bench: Any, cfg: float, side: int, rounds: int, count: int, size: int, steps: int) -> dict[str, Any]:
    """Pairs per second, writing included, and relative to plain sampling; both take turns, processor time.

    bench: what has `model`, `flow` (converted, from noise), `clip`, `prompts` and `negative`.
    """

    def sampling() -> float:
        sigmas = flow_sigmas(bench.flow, {"grid": "uniform"}, steps)
        sampler = host.make_sampler(OdeSampler("euler"))
        batch = {"samples": torch.zeros(size, 4, side // 8, side // 8)}
        condition = gather_prompts(bench.prompts[:1], "", bench.clip, None).entries
        start = time.process_time()
        for _ in range(count // size):
            host.sample(bench.flow, batch, condition, bench.negative, cfg, sampler, sigmas, 0)
        return time.process_time() - start

    def pairs() -> float:
        settings = ReflowPairSettings("bench_rate", count, steps, cfg, "euler", side, side, size, 0, "auto", "fp16", 32)
        prompts = gather_prompts(["\n".join(bench.prompts[:2])], "", bench.clip, None)
        shutil.rmtree(settings.folder, ignore_errors=True)
        start = time.process_time()
        ReflowPairGenerator(bench.model, settings, prompts, bench.negative).run()
        return time.process_time() - start

    sampling(), pairs()
    times = [(sampling(), pairs()) for _ in range(rounds)]
    return {
        "pairs_a_second": round(count / median(b for _, b in times), 3),
        "vs_sampling": round(median(a / b for a, b in times), 3),
        "steps": steps,
    }
