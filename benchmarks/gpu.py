"""What the pack costs on a CUDA card, whether it fits a smaller one, and whether the host's dynamic patcher agrees.

    sampler   ours, the stock KSampler and bare calls of the network: calls per second, launches and waits per call
    trainer   ours, ours with offload, and a bare PyTorch loop: steps per second, peak memory, and model FLOPs
              utilisation (MFU) against the card's own bf16 matrix product; `compiled`: with torch.compile; `stock`: its
              trainer, both modes
    memory    the settings of docs/settings.md under a cap of 6 to 24 GB: whether they fit, and at which speed
    patcher   every result under the host's dynamic patcher (CUDA's default) against the plain one
    pairs     making reflow pairs against plain sampling; training on a base in fp8
    demo      the demo LoRA trained here, and its accuracy beside the CPU's

SD1.5 at 512 and SDXL at 1024 pixels in their true shapes, random weights made on the card, bf16. Every part has a
process of its own (with `--quick` all but `patcher` share one). Rows are kept as they are measured: when the minutes
are over, what there is counts, and the same command goes on with what is missing (`--new` begins anew). On a machine
without a card only `--quick` makes sense: it sends the demo model through every part but `compiled`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from devtools.console import DevError, say, tail

PARTS = Path(__file__).resolve().parent / "gpu_parts"
KEPT = Path(__file__).resolve().parents[1] / ".d2f" / "benchmarks" / "gpu_rows.json"
Row = dict[str, Any]
Order = tuple[str, str]
# The most important first: (part, model).
ORDERS: tuple[Order, ...] = (
    ("sampler", "sd15"),
    ("trainer", "sd15"),
    ("memory", "sdxl"),
    ("patcher", "sd15"),
    ("trainer", "sdxl"),
    ("demo", "demo"),
    ("compiled", "sd15"),
    ("pairs", "sd15"),
    ("sampler", "sdxl"),
    ("stock", "sd15"),
    ("memory", "sd15"),
    ("stock", "sdxl"),
    ("compiled", "sdxl"),
)
# Compiling takes a minute, also a small model.
QUICK_ORDERS: tuple[list[Order], ...] = (
    [(part, "demo") for part in dict.fromkeys(part for part, _ in ORDERS) if part not in ("patcher", "compiled")],
    [("patcher", "demo")],
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=8.0, help="when to stop; what was measured counts")
    parser.add_argument("--parts", nargs="+", choices=sorted({part for part, _ in ORDERS}), help="only these")
    parser.add_argument("--new", action="store_true", help="measure again what was measured on this machine")
    parser.add_argument("--quick", action="store_true", help="the demo model and a few steps, to see that everything "
                        "runs; works on the CPU, and the committed results are left alone")  # fmt: skip


def run(options: argparse.Namespace) -> Iterator[Row]:
    if not (options.quick or torch.cuda.is_available()):
        raise DevError("bench gpu measures a CUDA card, and torch sees none here; `bench gpu --quick` runs on the CPU")
    end = time.monotonic() + 60 * options.minutes
    kept = Kept(KEPT.with_stem("gpu_quick_rows") if options.quick else KEPT, options.new or options.quick)
    for orders in QUICK_ORDERS if options.quick else [[order] for order in ORDERS]:
        orders = [order for order in orders if not options.parts or order[0] in options.parts]
        missing = [order for order in orders if not kept.finished(*order)]
        for order in orders:
            if order not in missing:
                yield from kept.rows(*order)
        if missing and time.monotonic() < end:
            yield from measured(kept, missing, options.quick, end)
        elif missing:
            say(f"{named(missing)}: no time left; run the same command again to go on")


def named(orders: list[Order]) -> str:
    return ", ".join(" ".join(order) for order in orders)


def measured(kept: Kept, orders: list[Order], quick: bool, end: float) -> Iterator[Row]:
    """Rows of some parts as their process writes them; it is ended when the time is over."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="d2f-gpu-") as folder:
        log = Path(folder) / "log.txt"
        job = json.dumps({"orders": orders, "quick": quick, "base": folder})
        with open(log, "w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, str(PARTS), job], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        timer = threading.Timer(max(1.0, end - start), process.kill)
        timer.start()
        try:
            yield from read_rows(kept, process)
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
        if code and time.monotonic() < end:
            message = f"{named(orders)} stopped with code {code}; the last words were:\n{tail(log)}"
            if quick:
                raise DevError(message)
            say(message)  # the other parts still count
        say(f"{named(orders)}: {time.monotonic() - start:.0f} s")


def read_rows(kept: Kept, process: subprocess.Popen[str]) -> Iterator[Row]:
    """Rows as they come; a part is finished when its process says so."""
    assert process.stdout is not None
    for line in process.stdout:
        row = json.loads(line)
        if "finished" in row:
            kept.finish(*row["finished"])
        else:
            kept.add(row["part"], row["model"], row)
            yield row


class Kept:
    """Rows of this machine on disk, by part and model.

    Args:
        file: where; rows of another card or other versions in it are left out.
        forget: begin anew.
    """

    def __init__(self, file: Path, forget: bool) -> None:
        self.file, self.parts = file, {}
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        self.machine = [name, torch.__version__, os.environ["COMFYUI_PATH"]]
        if file.is_file() and not forget:
            found = json.loads(file.read_text(encoding="utf-8"))
            self.parts = found["parts"] if found["machine"] == self.machine else {}

    def entry(self, part: str, model: str) -> dict[str, Any]:
        return self.parts.get(f"{part} {model}", {"rows": [], "finished": False})

    def rows(self, part: str, model: str) -> list[Row]:
        return self.entry(part, model)["rows"]

    def finished(self, part: str, model: str) -> bool:
        return self.entry(part, model)["finished"]

    def add(self, part: str, model: str, row: Row) -> None:
        entry = self.parts.setdefault(f"{part} {model}", {"rows": [], "finished": False})
        # A part that was cut off is measured again from its first row.
        same = [i for i, old in enumerate(entry["rows"]) if identity(old) == identity(row)]
        entry["rows"][slice(same[0], same[0] + 1) if same else slice(len(entry["rows"]), None)] = [row]
        self.write()

    def finish(self, part: str, model: str) -> None:
        self.parts[f"{part} {model}"] = {**self.entry(part, model), "finished": True}
        self.write()

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = self.file.with_suffix(".partial")
        partial_file.write_text(json.dumps({"machine": self.machine, "parts": self.parts}), encoding="utf-8")
        partial_file.replace(self.file)


def identity(row: Row) -> tuple[Any, ...]:
    """What a row is about."""
    return tuple(row.get(key) for key in ("part", "model", "runner", "dtype", "batch", "size", "cap_gb"))


def plot(rows: list[Row], axes: Any) -> None:
    """Steps per second of the trainers, a group of bars per model."""
    rows = [row for row in rows if row["part"] in ("trainer", "compiled", "stock") and "steps_per_s" in row]
    models = list(dict.fromkeys(row["model"] for row in rows))
    runners = list(dict.fromkeys(row["runner"] for row in rows))
    for i, runner in enumerate(runners):
        mine = [row for row in rows if row["runner"] == runner]
        places = [models.index(row["model"]) + 0.14 * (i - (len(runners) - 1) / 2) for row in mine]
        bars = axes.bar(places, [row["steps_per_s"] for row in mine], 0.13, label=runner)
        axes.bar_label(bars, fmt="%.3g", fontsize=7)
    axes.set_xticks(range(len(models)), models)
    axes.set_ylabel("steps per second")
    axes.legend(fontsize=8)
