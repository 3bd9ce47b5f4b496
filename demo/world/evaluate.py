"""Evaluate the second world's model: `python demo world.evaluate --cfg 3 --steps 25 4 2 --grid out.png`.

256 scenes of words from the training are asked for by `captions.plain_caption`, sampled with ComfyUI's own samplers (25
DDIM steps; the flow twin with Euler steps) and read by `reader`; `scoring` says what is right. The Frechet distance is
between samples and renders on the features of the reader, the time that of a batch of 16 (best of three). `--held-out`
asks for the words that training never saw, `--depth` how good the mean depth is as a guess.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..evaluate import frechet_distance, sample_images, save_grid
from ..train_log import import_host, log
from ..worlds import SECOND
from .captions import plain_caption
from .reader import features, read
from .render import render_batch
from .scenes import HELD_OUT, Scene, sample_scene
from .scoring import share_showing, shares, wanted_of

STEPS, CFG = 25, 3.0
SAMPLERS = {"eps": ("ddim", "ddim_uniform"), "v": ("ddim", "ddim_uniform"), "flow": ("euler", "simple")}
Sample = Callable[[list[str]], Tensor]
"""Prompts to images (N, 128, 128, 3)."""


def measure(sample: Sample, scenes: list[Scene]) -> tuple[dict[str, float], Tensor]:
    """Shares of what is right in one image per scene, and the images."""
    images = sample([plain_caption(scene) for scene in scenes])
    return shares([wanted_of(scene) for scene in scenes], read(images)), images


def held_out_shares(sample: Sample, count: int, seed: int) -> dict[str, float]:
    """Of each held-out word: the fraction of images that show it where it was asked for."""
    rng, found = np.random.default_rng(seed), {}
    for name, (word,) in HELD_OUT.items():
        scenes = [sample_scene(rng, **{name: word}) for _ in range(count)]
        found[word] = share_showing(read(sample([plain_caption(scene) for scene in scenes])), name, word)
    return found


def mean_depth_delta1(depths: Tensor) -> float:
    """Share of pixels whose depth (N, H, W) is within 25 % of the mean over all pictures at that pixel."""
    mean = depths.double().mean(0)
    return (torch.maximum(depths / mean, mean / depths) < 1.25).double().mean().item()


def seconds_for(sample: Sample, prompts: list[str]) -> float:
    """Seconds for sampling and decoding, best of three."""
    times = []
    for _ in range(3):
        start = time.monotonic()
        sample(prompts)
        times.append(time.monotonic() - start)
    return min(times)


def _figures(sample: Callable, args: argparse.Namespace, cfg: float, renders: Tensor | None) -> Tensor:
    """Print or log the figures at each number of steps; returns the images of the first."""
    rng = np.random.default_rng(args.seed)
    scenes, first = [sample_scene(rng) for _ in range(args.count)], None
    for steps in args.steps:
        at_steps = partial(sample, steps=steps, cfg=cfg)
        found, images = measure(at_steps, scenes)
        first = images if first is None else first
        if renders is not None:
            found["frechet"] = frechet_distance(features(images), features(renders))
        found["seconds_batch_16"] = seconds_for(at_steps, [plain_caption(scene) for scene in scenes[:16]])
        _report(args, count=args.count, steps=steps, cfg=cfg, **found)
    return first


def _report(args: argparse.Namespace, **record) -> None:
    record = {"prediction": args.prediction, "seed": args.seed, **record}
    record = {name: round(value, 4) if isinstance(value, float) else value for name, value in record.items()}
    log("evaluate", SECOND.log, **record) if args.log else print(json.dumps(record), flush=True)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo world.evaluate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=SECOND.weights)
    parser.add_argument("--prediction", choices=list(SAMPLERS), default="eps")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--steps", type=int, nargs="+", default=[STEPS])
    parser.add_argument("--cfg", type=float, nargs="+", default=[CFG])
    parser.add_argument("--renders", type=int, default=1024, help="renders of the Frechet distance; 0: without it")
    parser.add_argument("--held-out", action="store_true", help="ask for the held-out words, too")
    parser.add_argument("--depth", action="store_true", help="how good the mean depth is as a guess, and nothing else")
    parser.add_argument("--grid", type=Path, help="write the first 64 images of the last --cfg to this PNG")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--log", action="store_true", help="append the figures to the training log")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed + 1)
    if args.depth:
        depths = render_batch([sample_scene(rng) for _ in range(args.count)], samples=1).depths
        return _report(args, count=args.count, mean_depth_delta1=mean_depth_delta1(depths))
    import_host()
    from .networks import IMAGE_SIZE, load_checkpoint

    sampler, scheduler = SAMPLERS[args.prediction]
    options = {"sampler": sampler, "scheduler": scheduler, "seed": args.seed, "side": IMAGE_SIZE}
    sample = partial(sample_images, load_checkpoint(args.prediction, args.weights), **options)
    renders = render_batch([sample_scene(rng) for _ in range(args.renders)]).images if args.renders else None
    for cfg in args.cfg:
        images = _figures(sample, args, cfg, renders)
        if args.held_out:
            _report(args, cfg=cfg, held_out=held_out_shares(partial(sample, cfg=cfg), 32, args.seed))
    if args.grid:
        save_grid(images[:64], args.grid, columns=8)
    return None
