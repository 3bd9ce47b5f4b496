"""What Training Set from Folder costs beside the encoding itself, from a folder of pictures to the first step.

    bare     the loop that one would write: Pillow opens, turns to RGB and resizes, the VAE encodes batches, the CLIP
             captions; nothing is checked, hashed, sorted or stored
    first    the node on a folder that it has not seen, then LoRA Trainer (Diff2Flow) up to the end of its first step
    again    both with everything in the cache

`demo` is the worst case, as its VAE is small: what lies beside the encoding counts most there.
`sd15` has a VAE of the true size with random weights, on few pictures. Both sides take turns; ratios are medians of the
rounds, of rates by the clock and by the processor's time, to which other programs add nothing. `opened` and `decoded`
count how often a picture's file is opened and its pixels are decoded in the first run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from bench_shared import Rows, defaults, output_in, with_options, with_other_parts
from PIL import Image, ImageFile
from torch import Tensor

from diff2flow_kit.d2f_data.image_sets.training_set import BATCH_PIXELS
from diff2flow_kit.demo import networks
from diff2flow_kit.nodes.datasets.folder_dataset import D2FFolderDataset
from diff2flow_kit.nodes.training.train_lora import D2FTrainLora

COLORS = ("red", "green", "blue", "yellow", "pink", "white")
SHAPES = ("cube", "sphere", "cone", "ring", "cylinder")
PLANS = {"demo": (5000, 96), "sd15": (16, 256)}
"""Pictures, and pixels of a side."""
SD15_VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
Times = tuple[float, float]
"""Seconds by the clock, and of the processor."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vaes", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--count", type=int, help="of pictures, instead of those planned for the VAE")
    parser.add_argument("--source", type=int, default=640, help="pixels of a side of the files, before resizing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch; 1 measures steadily on a busy machine")
    parser.add_argument("--quick", action="store_true", help="few pictures; the committed results are left alone")


def parts(options: argparse.Namespace) -> list[str]:
    """Rows that this run makes; the others stay as they are."""
    return options.vaes


def run(options: argparse.Namespace) -> Rows:
    torch.set_num_threads(options.threads)
    rows = [row(name, options) for name in options.vaes]
    return rows if options.quick else with_other_parts("folder", rows)


def row(vae: str, options: argparse.Namespace) -> dict[str, Any]:
    count, side = PLANS[vae]
    count = 8 if options.quick else options.count or count
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        draw(pictures, count, options.source)
        return measure(Case(vae, pictures, side), 1 if options.quick else options.rounds, count)


def draw(folder: Path, count: int, side: int) -> None:
    """JPEG files of smooth random pictures, with captions."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=92)
        caption = f"a {COLORS[number % len(COLORS)]} {SHAPES[number % len(SHAPES)]}, number {number}"
        (folder / f"{number:05}.txt").write_text(caption, encoding="utf-8")


class Case:
    """A folder of pictures and what encodes them."""

    def __init__(self, vae: str, folder: Path, side: int) -> None:
        self.model, self.clip, small = networks.load_demo_checkpoint()
        self.vae = small if vae == "demo" else sd15_vae()
        self.name, self.folder, self.side = vae, folder, side

    def bare(self) -> tuple[list[Tensor], list[Any]]:
        """Latents and conditionings, as the shortest program makes them."""
        latents, conditions, waiting = [], [], []
        most = max(1, BATCH_PIXELS // self.side**2)
        files = sorted(self.folder.glob("*.jpg"))
        with torch.inference_mode():
            for file in files:
                caption = file.with_suffix(".txt").read_text(encoding="utf-8")
                conditions.append(self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption), show_pbar=False))
            for file in files:
                with Image.open(file) as image:
                    pixels = image.convert("RGB").resize((self.side, self.side), Image.Resampling.LANCZOS)
                waiting.append(torch.from_numpy(np.array(pixels)).float() / 255)
                if len(waiting) == most or file == files[-1]:
                    latents.append(self.vae.encode(torch.stack(waiting)).cpu())
                    waiting = []
        return latents, conditions

    def ours(self) -> None:
        """The node, and one step of the trainer behind it."""
        widgets = {"folder": str(self.folder), "resolution": self.side, "bucket_step": 32}
        given = defaults(D2FFolderDataset) | widgets
        with torch.inference_mode():
            latents, positive, negative, *_ = D2FFolderDataset.execute(self.clip, self.vae, **given).args
            node = D2FTrainLora.PREPARE_CLASS_CLONE(None)
            changed = {"steps": 1, "batch_size": 1, "rank": 2, "resume": "new", "save_every": 0, "preview_every": 0}
            inputs = {name: [value] for name, value in (defaults(node) | with_options(node, changed)).items()}
            node.execute(**inputs, model=[self.model], latents=latents, positive=positive, negative=[negative])


def sd15_vae() -> Any:
    """The autoencoder of SD1.5 in its true size, with random weights."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    network, generator = AutoencoderKL(ddconfig=SD15_VAE, embed_dim=4), torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():  # the host's layers are not initialised
        if value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5, generator=generator)
        else:
            value.fill_(float("norm" in name and name.endswith("weight")))
    return comfy.sd.VAE(sd=network.state_dict(), dtype=torch.float32)


def measure(case: Case, rounds: int, count: int) -> dict[str, Any]:
    """A row: rates, ratios, and how often files are opened and decoded."""
    times: dict[str, list[Times]] = {"bare": [], "first": [], "again": []}
    for _ in range(rounds):
        times["bare"].append(timed(case.bare))
        with tempfile.TemporaryDirectory() as output, output_in(Path(output)), counted(case.folder) as counts:
            times["first"].append(timed(case.ours))
            found = {name: number / count for name, number in counts.items()}
            times["again"].append(timed(case.ours))
    rates = {
        f"{name}_per_s": round(count / median(wall for wall, _ in all_times), 2) for name, all_times in times.items()
    }
    return {"part": case.name, "pictures": count, "side": case.side, **rates, **ratios(times), **found}


def ratios(times: dict[str, list[Times]]) -> dict[str, float]:
    """Rate of the first run relative to bare encoding: by the clock, with its spread, and by the processor's time."""
    pairs = list(zip(times["bare"], times["first"], strict=True))
    clock = [bare[0] / first[0] for bare, first in pairs]
    processor = [bare[1] / first[1] for bare, first in pairs]
    return {"ratio": round(median(clock), 3), "least": round(min(clock), 3), "most": round(max(clock), 3),
            "ratio_processor": round(median(processor), 3)}  # fmt: skip


def timed(work: Callable[[], Any]) -> Times:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


_watched: list[tuple[str, dict[str, int]]] = []
"""Folder and counts of `counted`; a hook of the interpreter cannot be taken away again."""


@contextmanager
def counted(folder: Path) -> Iterator[dict[str, int]]:
    """How often files of pictures in the folder are opened, and pixels decoded."""
    counts = {"opened": 0, "decoded": 0}
    load = ImageFile.ImageFile.load

    def decode(image: Any) -> Any:
        counts["decoded"] += bool(getattr(image, "tile", None))
        return load(image)

    _watched.append((str(folder), counts))
    ImageFile.ImageFile.load = decode
    try:
        yield counts
    finally:
        ImageFile.ImageFile.load = load
        _watched.pop()


def _opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched and str(arguments[0]).endswith(".jpg"):
        folder, counts = _watched[-1]
        counts["opened"] += str(arguments[0]).startswith(folder)


sys.addaudithook(_opened)
