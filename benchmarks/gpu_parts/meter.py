"""Time, memory, launches, waits and arithmetic of a device.

MFU = floating point operations of a step / (seconds of a step x rate of a large bf16 matrix product on this card)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

MB = 1 << 20
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], Any]) -> float:
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def take_turns(runners: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run, {name: one per round}; each round starts with another runner, after one that warms up."""
    for run in runners.values():
        run()
    names, times = list(runners), {name: [] for name in runners}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(seconds_of(runners[name]))
    return times


def ratio(mine: list[float], theirs: list[float]) -> float:
    """Median of the ratios within a round."""
    return round(median(a / b for a, b in zip(mine, theirs)), 3)


def peak_mb() -> int | None:
    """Most memory of the card that tensors took since `cases.free`; None without a card."""
    return round(torch.cuda.max_memory_allocated() / MB) if torch.cuda.is_available() else None


def launches_and_waits(run: Callable[[], Any], calls: int) -> dict[str, float]:
    """Kernel launches and waits for the device per call of the network; nothing without a card."""
    if not torch.cuda.is_available():
        return {}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run()
    counts = {event.key: event.count for event in profiled.key_averages()}
    return {name: round(sum(counts.get(key, 0) for key in keys) / calls, 2)
            for name, keys in (("launches", LAUNCHES), ("waits", WAITS))}  # fmt: skip


def operations_of(run: Callable[[], Any]) -> int:
    """Floating point operations of the matrix products and convolutions in a run, backward included."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@cache
def matrix_rate() -> float:
    """Floating point operations per second of a bf16 matrix product of 8192 x 8192 (float32, 512 x 512 on the CPU)."""
    on_card = torch.cuda.is_available()
    side, rounds = (8192, 20) if on_card else (512, 2)
    a = torch.randn(side, side, device="cuda" if on_card else "cpu")
    a = a.bfloat16() if on_card else a
    times = take_turns({"product": lambda: a @ a}, rounds)["product"]
    return 2 * side**3 / median(times)
