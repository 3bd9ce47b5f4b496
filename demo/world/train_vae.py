"""Train the autoencoder of the second world: `python demo world.train_vae --minutes 25 --cache DIR`.

As `demo/train_vae.py`, on the pool of `make_pool`: still lifes of all words and styles, and their depth images. To
go on, give `--start demo/world/weights/vae.safetensors`; the first run starts from the first world's weights. Solids
are small beside floor and wall, and their colours are what prompts ask for: errors of their pixels weigh more.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from .. import train_vae
from ..train_log import log, save_half
from ..worlds import SECOND
from .make_pool import Pool, fresh_pool, load_pool, parts_in
from .render import DEPTH_FAR, DEPTH_NEAR

FRESH, SOLID_WEIGHT = 64, 4  # pictures of the figures in the log; weight of a solid's pixels


def first_worlds_range(depths: Tensor) -> Tensor:
    """Depths that `demo.render.depth_image` maps to the greys of this world's `depth_image`."""
    low, high = train_vae.depth_range()
    return (low + (high - low) * (depths.float() - DEPTH_NEAR) / (DEPTH_FAR - DEPTH_NEAR)).half()


def renders_and_drawings(pool: Pool) -> tuple[Tensor, Tensor]:
    """The images in the style "render", and those in other styles."""
    drawn = [i for i, scene in enumerate(pool.scenes) if scene.style != "render"]
    plain = [i for i, scene in enumerate(pool.scenes) if scene.style == "render"]
    return pool.images[plain], pool.images[drawn]


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo world.train_vae", description=__doc__)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--parts", type=int, default=24, help="parts of the pool to train on, 256 scenes each")
    parser.add_argument("--cache", type=Path, default=SECOND.cache)
    parser.add_argument("--start", type=Path, help="go on from these weights")
    parser.add_argument("--out", type=Path, default=SECOND.weights / "vae.safetensors")
    train_vae.add_common_arguments(parser)
    args = parser.parse_args(argv)
    pool = load_pool(args.cache, parts_in(args.cache)[: args.parts])
    fresh = fresh_pool(args.cache)
    plain, drawn = renders_and_drawings(fresh)
    depths = first_worlds_range(pool.depths)
    vae = train_vae.new_vae(args.seed, args.start)
    weights = torch.where(pool.numbers > 0, SOLID_WEIGHT, 1).to(torch.uint8)
    vae = train_vae.train(vae, args, pool.images, depths, weights, plain[:FRESH], SECOND.log)
    save_half(vae.state_dict(), args.out)
    psnr = {name: train_vae.reconstruction_psnr(vae, part) for name, part in (("renders", plain), ("drawings", drawn))}
    psnr["solids"] = train_vae.reconstruction_psnr(vae, fresh.images, fresh.numbers > 0)
    log("vae", SECOND.log, done=True, fresh_psnr_of=psnr)
