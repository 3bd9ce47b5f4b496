"""Train the autoencoder of the second world: `python demo world.train_vae --minutes 25`.

As `demo/train_vae.py`, on still lifes of all words and styles, with the depth images of their renderer.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from .. import train_vae
from ..train_log import generators, save_half
from .render import DEPTH_FAR, DEPTH_NEAR, render_batch
from .scenes import Scene, sample_scene

FOLDER = Path(__file__).resolve().parent / "weights"
_PART = 64  # scenes that are rendered at once


def render_pool(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Renders as uint8 images (B, 3, H, W), and depths (B, H, W) in the range of `demo.render.depth_image`."""
    images, depths = [], []
    low, high = train_vae.depth_range()
    for start in range(0, len(scenes), _PART):
        with torch.inference_mode():
            part = render_batch(scenes[start : start + _PART])
        images.append((part.images * 255 + 0.5).to(torch.uint8).permute(0, 3, 1, 2))
        depths.append((low + (high - low) * (part.depths - DEPTH_NEAR) / (DEPTH_FAR - DEPTH_NEAR)).half())
    return torch.cat(images).clone(), torch.cat(depths).clone()


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo world.train_vae", description=__doc__)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--start", type=Path, help="go on from these weights")
    parser.add_argument("--out", type=Path, default=FOLDER / "vae.safetensors")
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder as it is")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    rng, _ = generators(args.seed)
    scenes = [sample_scene(rng, held_out=i % 3 == 0, **({"style": "pencil"} if i % 12 == 0 else {}))
              for i in range(args.scenes)]  # fmt: skip
    vae = train_vae.train(train_vae.new_vae(args.seed, args.start), args, *render_pool(scenes))
    save_half(vae.state_dict(), args.out)
