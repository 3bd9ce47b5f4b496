"""What benchmarks share: calling nodes, keeping finished parts, pictures, and figures over seeds.

The harness and the tests load this folder as the package `bench_shared`, beside ComfyUI and the pack.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import folder_paths
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diff2flow_kit.demo import scenes, worlds

RESULTS = Path(__file__).resolve().parent.parent / "results"
MARGIN = 180  # pixels before a line of pictures, for its name
Rows = list[dict[str, Any]]
Part = dict[str, Any]
"""A part of a benchmark: `rows`, and under `shown` images (N, H, W, 3) by the name of their line."""


def add_common_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Settings of every benchmark that trains."""
    parser.add_argument("--quick", action="store_true", help="a few steps and images, to see that everything runs; "
                        "the committed results are left alone")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="of torch; 1 measures steadily on a busy machine")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / f"d2f_bench_{name}",
                        help="what is finished is kept here, and taken from here")  # fmt: skip


@contextmanager
def output_in(folder: Path) -> Iterator[None]:
    """The host's output folder is another one; runs and LoRA files go there."""
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(folder))
    try:
        yield
    finally:
        folder_paths.set_output_directory(before)


def kept(folder: Path, name: str, settings: Any, make: Callable[[], Part]) -> Part:
    """What `make` gives, from the folder if it was made before with the same settings (anything of JSON) and the same
    weights of the demo."""
    digest = hashlib.sha256(json.dumps([settings, demo_weights()]).encode()).hexdigest()[:12]
    file = folder / f"{name}-{digest}.pt"
    if not file.exists():
        made = make()
        folder.mkdir(parents=True, exist_ok=True)
        partial_file = file.with_suffix(".partial")
        torch.save(made, partial_file)
        partial_file.replace(file)
    return torch.load(file, weights_only=True)


def with_other_parts(name: str, rows: Rows) -> Rows:
    """The rows, after those in the results of a benchmark whose `part` they do not hold."""
    file, mine = RESULTS / f"{name}.json", {row["part"] for row in rows}
    found = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    return [*(row for row in found if row["part"] not in mine), *rows]


def with_options(node: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs of a node; of the LoRA trainer, with what it has no input for in its options, as of settings nodes."""
    known = {each.id for each in node.define_schema().inputs}
    if "options" not in known:
        return inputs
    from diff2flow_kit.nodes.training.options.trainer_options import TrainerOptions

    others = {name: value for name, value in inputs.items() if name not in known}
    own = {name: value for name, value in inputs.items() if name in known}
    return {**own, "options": TrainerOptions(others)}


@cache
def demo_weights() -> dict[str, str]:
    """File of the demo's weights -> hash."""
    files = sorted(worlds.FIRST.weights.glob("*.safetensors"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def defaults(node: Any) -> dict[str, Any]:
    """Values of a node's widgets as they come."""
    schema = node.define_schema().inputs
    return {each.id: each.default for each in schema if getattr(each, "default", None) is not None}


def call(node: Any, **inputs: Any) -> Any:
    """First output of a node that takes lists, as the host calls it: what is not given is at its default."""
    schema, inputs = node.define_schema().inputs, with_options(node, inputs)
    unknown = inputs.keys() - {each.id for each in schema}
    if unknown:
        raise ValueError(f"{node.__name__} has no input {', '.join(sorted(unknown))}")
    given = {name: [value] for name, value in (defaults(node) | inputs).items()}
    return node.PREPARE_CLASS_CLONE(None).execute(**given).args[0]


def some_scenes(stream: int, count: int, seed: int = 0) -> list[Any]:
    """Scenes of a stream of random numbers; streams share none but by chance."""
    rng = np.random.default_rng((seed, stream))
    return [scenes.sample_scene(rng) for _ in range(count)]


def grid(shown: dict[str, Tensor]) -> Image.Image:
    """A line of images (N, H, W, 3) in [0, 1] for each name, with the name before it."""
    first = next(iter(shown.values()))
    columns, height, width = first.shape[:3]
    picture = Image.new("RGB", (MARGIN + width * columns, height * len(shown)), "white")
    for line, (name, images) in enumerate(shown.items()):
        ImageDraw.Draw(picture).text((6, height * line + height // 2 - 6), name, fill="black")
        for column, image in enumerate((images.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()):
            picture.paste(Image.fromarray(image), (MARGIN + width * column, height * line))
    return picture


def select(rows: Rows, column: str, **where: Any) -> list[float]:
    """The column of the rows that match `where`: one value per seed."""
    return [row[column] for row in rows if where.items() <= row.items() and row.get(column) is not None]


def spread(values: list[float], form: str) -> str:
    """Mean (least to most)."""
    return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})" if values else "-"


def bars(cells: list[list[float]]) -> tuple[list[float], list[list[float]]]:
    """Means of cells, and how far their least and most are from them, as matplotlib's `errorbar` takes both."""
    centre = [mean(cell) for cell in cells]
    return centre, [[m - min(c) for m, c in zip(centre, cells)], [max(c) - m for m, c in zip(centre, cells)]]
