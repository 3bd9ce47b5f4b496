"""Time and memory of this process, measured alike whoever trains.

A step ends when an optimizer has stepped, so what lies between two such moments is a whole step: data, network,
backward, optimizer, and all that a trainer does around them. The first step of a run is not counted.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

MB = 1 << 20
PROC = Path("/proc/self")


class StepClock:
    """`with StepClock(every) as clock:` train; then `clock.seconds`, `clock.cpu_seconds`, and `clock.memory_mb`."""

    def __init__(self, every: int = 0) -> None:
        self.every = every
        self.memory_mb: list[float] = []
        self.marks: list[tuple[float, float]] = []

    def __enter__(self) -> StepClock:
        self.hook = register_optimizer_step_post_hook(self.mark)
        return self

    def __exit__(self, *error: object) -> None:
        self.hook.remove()

    def mark(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append((time.perf_counter(), time.process_time()))
        if self.every and len(self.marks) % self.every == 0:
            self.memory_mb.append(memory_mb())

    def differences(self, column: int) -> list[float]:
        return [after[column] - before[column] for before, after in zip(self.marks, self.marks[1:])]

    @property
    def seconds(self) -> list[float]:
        return self.differences(0)

    @property
    def cpu_seconds(self) -> list[float]:
        return self.differences(1)


def memory_mb() -> float:
    """What is in use now: of the GPU's memory where there is one, else the resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / MB
    return psutil.Process().memory_info().rss / MB


def peak_mb() -> float:
    """The most that was in use since `forget_peak` (on Windows and macOS: since the start)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MB
    if (PROC / "status").exists():
        # getrusage would count the process that started this one, too.
        return int(re.findall(r"VmHWM:\s+(\d+)", (PROC / "status").read_text())[0]) / 1024
    info = psutil.Process().memory_info()
    return getattr(info, "peak_wset", info.rss) / MB


def forget_peak() -> None:
    """Loading may take more than training; begin anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif (PROC / "clear_refs").exists():
        (PROC / "clear_refs").write_text("5")
