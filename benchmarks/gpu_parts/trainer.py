"""Steps per second, peak memory and MFU of our trainer, a bare loop and the stock trainer, at the same settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from trainers.bare import BareFused
from trainers.measure import StepClock
from trainers.ours import Ours, OursCompiled, OursOffloaded
from trainers.stock import Stock, StockBypass

from .cases import Case, free
from .meter import matrix_rate, operations_of, peak_mb


class BareCompiled(BareFused):
    """The bare loop with its network compiled."""

    def __init__(self, task: Any) -> None:
        super().__init__(task)
        self.network.compile()


class StockBf16(Stock):
    """The stock trainer's default mode in the type of the others."""

    changed = {"training_dtype": "bf16", "lora_dtype": "fp32", "gradient_checkpointing": False}


class StockBypassBf16(StockBypass):
    """Its bypass mode likewise."""

    changed = {**StockBf16.changed, "bypass_mode": True}


RUNNERS: dict[str, dict[str, Any]] = {
    "trainer": {"bare": BareFused, "ours": Ours, "ours_offload": OursOffloaded},
    "compiled": {"ours_compiled": OursCompiled, "bare_compiled": BareCompiled},
    "stock": {"stock_bypass": StockBypassBf16, "stock": StockBf16},
}
BATCHES = {"demo": 2, "sd15": 4, "sdxl": 1}


def rows(case: Case) -> Iterator[dict[str, Any]]:
    case = replace(case, batch=BATCHES[case.model])
    operations, trainer = None, None
    for name, runner in RUNNERS[case.part].items():
        trainer = runner(case)
        if name == "bare":
            operations = operations_of(partial(trainer.train, 1, "diffusion"))
        figures = measured(trainer, case.quick)
        rate = figures["steps_per_s"] * operations / matrix_rate() if operations else None
        mfu = None if rate is None else round(rate, 4)
        yield {"runner": name, "batch": case.batch, "mfu": mfu, **figures}
        trainer = None
        free()


def measured(trainer: Any, quick: bool, objective: str = "diff2flow") -> dict[str, Any]:
    """Steps per second and peak memory of a run, its first steps left out."""
    free_first, steps = (1, 3) if quick else (5, 25)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with StepClock() as clock:
        trainer.train(steps, objective)
    return {"steps_per_s": round(1 / median(clock.seconds[free_first:]), 3), "peak_mb": peak_mb()}
