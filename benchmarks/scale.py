"""What more processes and more cards give: measured over 1 and 2 processes here, computed for 8 and 64.

Measured: seconds and loopback bytes per step of `d2f_diffusers.train` on the demo model, as differences of two runs of
different length, so that starting up does not count. Computed, with F the operations of one forward pass of an item,
counted by torch on a network without weights:

    seconds per step = operations / (processes * rate) + bytes / bandwidth
    operations = items * 2 F (LoRA: forward, gradient of the activations) or 3 F (all weights)
    bytes sent by each process = 2 (N - 1) / N * 4 * trained parameters      (a ring sums float32 gradients)
                        sharded: (N - 1) / N * (2 * held + 4) * parameters    (weights are gathered twice, in the
                                 type that computes, of `held` bytes; float32 gradients are summed once)
    bytes held by a card = 20 * trained parameters                            (weight, gradient, two moments, average)
                        sharded: that / N        LoRA: and 2 bytes for each frozen parameter
    seconds per pair = calls * F / rate                                     bytes per pair = 2 * 4 * latent

The rate is a card's peak times the share of it that is reached; both are assumptions, stated in each row.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PEAK, SHARE = 989e12, 0.35  # bfloat16 operations per second of an H100, and the part of them that is assumed
INSIDE, BETWEEN, CARDS = 450e9, 50e9, 8  # bytes per second within and between machines, cards in a machine
ITEMS, PAIRS, CALLS, RANK = 64, 1_644_334, 50, 64  # per step; of the paper; 25 steps with guidance; of the LoRA
SD = {"cross_attention_dim": 768, "attention_head_dim": 8}
XL = {
    "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
FULL, SHARDED = "all weights", "all weights, sharded"
GLOO = 8  # bytes per value for which gloo sums gradients of shards
PASSES = {"LoRA": 2, FULL: 3, SHARDED: 3}  # of a forward pass's operations
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
MODELS = {"SD1.5, 512": (SD, 64), "SDXL, 1024": (XL, 128)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=60, help="difference of the two runs")
    parser.add_argument("--quick", action="store_true", help="few steps; the committed results are left alone")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    steps = 4 if options.quick else options.steps
    return [*measured(steps), *computed()]


def measured(steps: int) -> list[dict[str, Any]]:
    from d2f_diffusers.demo_model import demo_pipeline, export_demo

    unet = demo_pipeline().unet
    sizes = {"LoRA": lora_size(unet, 16), **dict.fromkeys((FULL, SHARDED), size_of(unet))}
    forward = operations(unet, 12, 24)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        export_demo(place / "model")
        pictures(place / "data")
        train(place, "LoRA", 1, 1)  # fills the cache
        for kind, processes in (("LoRA", 1), ("LoRA", 2), (FULL, 1), (FULL, 2), (SHARDED, 2)):
            alone = rows[-1]["s_per_step"] if processes == 2 and kind != SHARDED else None
            rows.append(measure(place, kind, processes, steps, sizes[kind], forward, alone))
    return rows


def measure(
    place: Path, kind: str, processes: int, steps: int, trained: int, forward: float, alone: float | None
) -> dict[str, Any]:
    """A row: the difference of two runs; `alone` is what one process took for a step."""
    short, long = (train(place, kind, processes, count) for count in (5, 5 + steps))
    seconds, wire = ((b - a) / steps for a, b in zip(short, long))
    rate = PASSES[kind] * forward * 4 / seconds / 1e9
    return {
        "row": "measured", "kind": kind, "model": "demo, 96", "processes": processes, "items": 4 * processes,
        "s_per_step": round(seconds, 4), "steps_per_s": round(1 / seconds, 2),
        "items_per_s": round(4 * processes / seconds, 2), "GB_per_step": round(wire / 1e9, 6),
        "GB_by_formula": round(processes * sent(kind, trained, processes, 4, GLOO) / 1e9, 6),
        "assumed": f"{rate:.1f} GFLOP/s found", "s_by_formula": alone,
    }  # fmt: skip


def pictures(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (96, 96), (30 * number, 99, 200)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a large red sphere", encoding="utf-8")


def train(place: Path, kind: str, processes: int, steps: int) -> tuple[float, float]:
    """Seconds of a training, and bytes that went over the loopback meanwhile."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with tempfile.TemporaryDirectory(dir=place) as output:
        words = ["--pretrained_model_name_or_path", place / "model", "--train_data_dir", place / "data"]
        words += ["--output_dir", output, "--cache_dir", place / "cache", "--resolution", 96, "--train_batch_size", 4]
        words += [
            "--max_train_steps",
            steps,
            "--checkpointing_steps",
            0,
            "--train",
            "lora" if kind == "LoRA" else "full",
        ]
        command = [sys.executable, *launch, "-m", "d2f_diffusers.train", *map(str, words)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environ |= FSDP if kind == SHARDED else {}
        start, sent = time.perf_counter(), loopback()
        subprocess.run(command, env=environ, check=True, capture_output=True)
        return time.perf_counter() - start, loopback() - sent


def loopback() -> float:
    """Bytes that the loopback has sent so far; 0 where Linux's counter is missing."""
    counter = Path("/sys/class/net/lo/statistics/tx_bytes")
    return float(counter.read_text(encoding="ascii")) if counter.is_file() else 0.0


def computed() -> list[dict[str, Any]]:
    from diffusers import UNet2DConditionModel

    rows = []
    for name, (config, size) in MODELS.items():
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel(**config)
        forward, whole = operations(unet, size, 77), size_of(unet)
        for kind, trained in (("LoRA", lora_size(unet, RANK)), (FULL, whole), (SHARDED, whole)):
            for cards in (1, 8, 64):
                if kind != SHARDED or cards > 1:
                    work = PASSES[kind] * forward * ITEMS
                    row = {"row": kind, "model": name, "processes": cards, "items": ITEMS}
                    memory = {"GB_held": held(kind, trained, whole, cards)}
                    rows.append({**row, **step(work, kind, trained, cards), **memory})
        for cards in (8, 64):
            hours = PAIRS * CALLS * forward / (PEAK * SHARE) / cards / 3600
            rows.append({"row": f"{PAIRS} pairs", "model": name, "processes": cards, "hours": round(hours, 1),
                         "GB": round(PAIRS * 2 * 4 * 4 * size * size / 1e9), "assumed": assumed()})  # fmt: skip
    return rows


def step(work: float, kind: str, trained: int, cards: int) -> dict[str, Any]:
    wire = sent(kind, trained, cards, 2)
    compute, traffic = work / (cards * PEAK * SHARE), wire / (INSIDE if cards <= CARDS else BETWEEN)
    return {
        "s_per_step": round(compute + traffic, 4), "s_traffic": round(traffic, 5), "GB_per_step": round(wire / 1e9, 3),
        "trained": trained, "TFLOP": round(work / 1e12, 1), "assumed": assumed(),
    }  # fmt: skip


def sent(kind: str, trained: int, cards: int, width: int, scattered: int = 4) -> float:
    """Bytes that a process sends per step.

    `width` is that of the type in which weights are gathered. Gradients of shards are summed for `scattered` bytes:
    gloo, which the CPU has, sums all of them in each process before it scatters them, for 8, by the bytes measured.
    """
    each = 2 * width + scattered if kind == SHARDED else 2 * 4
    return (cards - 1) / cards * each * trained


def held(kind: str, trained: int, whole: int, cards: int) -> float:
    """GB of weights, gradients, moments and averages on a card; frozen weights are bfloat16."""
    frozen = 2 * whole if kind == "LoRA" else 0
    return round((20 * trained / (cards if kind == SHARDED else 1) + frozen) / 1e9, 2)


def assumed() -> str:
    return f"{PEAK / 1e12:.0f} TFLOP/s x {SHARE}"


def operations(unet: Any, size: int, tokens: int) -> float:
    """Operations of a forward pass of one item, on a network without weights."""
    from torch.utils.flop_counter import FlopCounterMode

    unet = unet.to("meta")
    extra = {}
    if unet.config.addition_embed_type:
        extra = {"added_cond_kwargs": {"text_embeds": torch.zeros(1, 1280, device="meta"),
                                       "time_ids": torch.zeros(1, 6, device="meta")}}  # fmt: skip
    context = torch.zeros(1, tokens, unet.config.cross_attention_dim, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(torch.zeros(1, 4, size, size, device="meta"), torch.zeros(1, device="meta"), context, **extra)
    return float(counter.get_total_flops())


def size_of(unet: Any) -> int:
    return sum(parameter.numel() for parameter in unet.parameters())


def lora_size(unet: Any, rank: int) -> int:
    """Parameters of the paper's LoRA: q, k, v and all convolutions."""
    from d2f_core import AdapterSettings, make_adapters
    from d2f_diffusers.layout import original_view

    adapters = make_adapters(original_view(unet), AdapterSettings(rank=rank), torch.Generator())
    return sum(parameter.numel() for adapter in adapters.values() for parameter in adapter.parameters())
