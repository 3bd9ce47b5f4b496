"""Render still lifes once and keep them: `python demo world.make_pool --scenes 12288 --cache DIR`.

The autoencoder, the reader and the latents are all made from this pool. It is written in parts of PART scenes, each
drawn from (seed, part), so that a run that was interrupted goes on and a pool can grow. Every third scene may have
held-out words, and every twelfth is a pencil drawing.
"""

import argparse
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..train_log import Clock, log
from ..worlds import SECOND
from .render import render_batch
from .scenes import Scene, sample_scene

PART, SEED, FRESH_SEED = 256, 1, 99
"""FRESH_SEED is of scenes that nothing is trained on."""


class Pool(NamedTuple):
    """Scenes, and their uint8 images (N, 3, H, W), float16 depths and uint8 numbers of the solids (N, H, W)."""

    scenes: list[Scene]
    images: Tensor
    depths: Tensor
    numbers: Tensor


def scenes_of(part: int, seed: int = SEED, count: int = PART) -> list[Scene]:
    """The scenes of a part."""
    rng = np.random.default_rng([seed, part])
    return [
        sample_scene(rng, held_out=i % 3 == 0, **({"style": "pencil"} if i % 12 == 0 else {})) for i in range(count)
    ]


def file_of(cache: Path, part: int, seed: int) -> Path:
    """Where a part is kept."""
    return cache / f"pool_{seed}_{part:04}.safetensors"


def render_part(cache: Path, part: int, seed: int = SEED) -> None:
    """Render a part into its file, unless it is there."""
    path = file_of(cache, part, seed)
    if path.exists():
        return
    torch.set_num_threads(1)
    with torch.inference_mode():
        rendered = render_batch(scenes_of(part, seed))
        images = (rendered.images * 255 + 0.5).to(torch.uint8).permute(0, 3, 1, 2)
    tensors = {"images": images, "depths": rendered.depths.half(), "numbers": rendered.numbers}
    partial = path.with_suffix(".partial")
    save_file({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, partial)
    partial.replace(path)


def parts_in(cache: Path, seed: int = SEED) -> list[int]:
    """Numbers of the parts that the cache holds. Raises ValueError if there are none."""
    parts = sorted(int(path.stem.split("_")[-1]) for path in cache.glob(f"pool_{seed}_*.safetensors"))
    if not parts:
        raise ValueError(f"{cache} holds no renders of seed {seed}; run python demo world.make_pool --cache {cache}")
    return parts


def load_pool(cache: Path, parts: Iterable[int], seed: int = SEED) -> Pool:
    """Some parts of the pool."""
    parts = list(parts)
    tensors = [load_file(file_of(cache, part, seed)) for part in parts]
    columns = [torch.cat([part[name] for part in tensors]) for name in ("images", "depths", "numbers")]
    return Pool([scene for part in parts for scene in scenes_of(part, seed)], *columns)


def fresh_pool(cache: Path, parts: int = 1) -> Pool:
    """New renders for figures; they are made where the cache lacks them."""
    cache.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        render_part(cache, part, FRESH_SEED)
    return load_pool(cache, range(parts), FRESH_SEED)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo world.make_pool", description=__doc__)
    parser.add_argument("--cache", type=Path, default=SECOND.cache)
    parser.add_argument("--scenes", type=int, default=12288)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args(argv)
    args.cache.mkdir(parents=True, exist_ok=True)
    clock, parts = Clock(), range(-(-args.scenes // PART))
    with get_context("fork").Pool(args.processes) as pool:
        pool.starmap(render_part, [(args.cache, part, args.seed) for part in parts], chunksize=1)
    log("pool", SECOND.log, scenes=len(parts) * PART, seed=args.seed, seconds=clock())
