"""Encode the pool once, with captions: `python demo world.make_latents --cache DIR`.

Scenes with held-out words are left out. Every picture is used as it is and mirrored, so the cache holds two latents
(4, 16, 16) of each scene, in float16, and for each CAPTIONS random captions as tokens.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from ..make_latents import CAPTIONS, fit_preview, load_vae, tokenize
from ..tiny_vae import TinyVAE
from ..train_log import Clock, half_precision, import_host, log
from ..worlds import SECOND
from .captions import caption
from .make_pool import Pool, load_pool, parts_in
from .scenes import Scene, is_held_out, mirrored


def known(pool: Pool) -> tuple[list[Scene], Tensor]:
    """The scenes that training may see and their images, each followed by its mirror image."""
    rows = [i for i, scene in enumerate(pool.scenes) if not is_held_out(scene)]
    images = pool.images[rows]
    scenes = [each for i in rows for each in (pool.scenes[i], mirrored(pool.scenes[i]))]
    return scenes, torch.stack([images, images.flip(-1)], 1).flatten(0, 1)


@torch.no_grad()
def encoded(vae: TinyVAE, images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Latents (N, 4, h, w) in float16 of uint8 images (N, 3, H, W)."""
    parts = []
    for part in images.split(64):
        x = (part.to(device).float() / 255).contiguous(memory_format=torch.channels_last)
        with half_precision(device):
            parts.append(vae.encode(x).half().contiguous().cpu())
    return torch.cat(parts)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo world.make_latents", description=__doc__)
    parser.add_argument("--cache", type=Path, default=SECOND.cache)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args(argv)
    import_host()
    torch.set_num_threads(args.threads)
    rng, clock = np.random.default_rng(args.seed), Clock()
    vae = load_vae(SECOND.weights / "vae.safetensors").to(args.device)
    latents, tokens, small = [], [], []
    for part in parts_in(args.cache):
        scenes, images = known(load_pool(args.cache, [part]))
        latents.append(encoded(vae, images, args.device))
        tokens.append(tokenize([caption(scene, rng) for scene in scenes for _ in range(CAPTIONS)], SECOND))
        small.append(functional.avg_pool2d(images[:128].float() / 255, 8))
    z, words = torch.cat(latents), torch.cat(tokens)
    tensors = {"latents": z, "tokens": words.view(len(z), CAPTIONS, -1)}
    save_file(tensors, args.cache / "latents.safetensors")
    preview = fit_preview(torch.cat([part[:128] for part in latents]), torch.cat(small))
    (SECOND.weights / "latent_rgb.json").write_text(json.dumps(preview) + "\n", encoding="ascii")
    spread = [round(value, 4) for value in z.float().std((0, 2, 3)).tolist()]
    log("latents", SECOND.log, latents=len(z), seconds=clock(), mean=z.float().mean().item(), channel_std=spread)
