"""Render the training scenes and encode them once: `python demo make_latents --cache DIR`.

The cache (not part of the repository) holds latents (N, 4, h, w) in float16 and CAPTIONS random captions
per scene as tokens (N, CAPTIONS, MAX_TOKENS) in int16.
"""

import argparse
import json
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .captions import caption
from .render import render_batch
from .scenes import Scene, sample_scene
from .tiny_vae import TinyVAE
from .train_log import WEIGHTS, Clock, half_precision, import_host, log
from .worlds import FIRST, World

CAPTIONS = 8


@lru_cache(maxsize=1)
def load_vae(path: Path = WEIGHTS / "vae.safetensors") -> TinyVAE:
    """The trained narrow autoencoder in float32."""
    vae = TinyVAE()
    vae.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return vae.eval().to(memory_format=torch.channels_last)


def tokenize(captions: list[str], world: World = FIRST) -> Tensor:
    """Captions as int16 tokens (N, MAX_TOKENS): start, words, end, padding. Raises ValueError for a longer caption."""
    from transformers import CLIPTokenizer

    networks = world.module("networks")
    tokenizer, most = CLIPTokenizer.from_pretrained(str(world.tokenizer)), networks.MAX_TOKENS
    rows = torch.full((len(captions), most), networks.END_TOKEN, dtype=torch.int16)
    for row, ids in zip(rows, tokenizer(captions)["input_ids"]):
        if len(ids) > most:
            raise ValueError(f"a caption has {len(ids)} tokens, more than {most}")
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int16)
    return rows


@torch.inference_mode()
def encode_scenes(scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Latents (N, 4, h, w) float16 and images downscaled to the size of the latents (N, 3, h, w)."""
    torch.set_num_threads(1)
    images = render_batch(scenes, 96)[0].permute(0, 3, 1, 2)
    with half_precision("cpu"):
        latents = load_vae().encode(images.contiguous(memory_format=torch.channels_last))
    return latents.half().contiguous().numpy(), torch.nn.functional.avg_pool2d(images, 8).numpy()


def encode_all(scenes: list[Scene], processes: int) -> tuple[Tensor, Tensor]:
    """`encode_scenes` for many scenes, distributed over single-threaded processes."""
    parts = [scenes[i : i + 64] for i in range(0, len(scenes), 64)]
    with get_context("fork").Pool(processes) as pool:
        latents, small = zip(*pool.imap(encode_scenes, parts))
    return torch.from_numpy(np.concatenate(latents)), torch.from_numpy(np.concatenate(small))


def fit_preview(latents: Tensor, small: Tensor) -> dict[str, list]:
    """Least squares map from latent channels to RGB in [-1, 1], ComfyUI's convention for previews."""
    x = latents.float().permute(0, 2, 3, 1).reshape(-1, 4)
    y = small.permute(0, 2, 3, 1).reshape(-1, 3) * 2 - 1
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    solution = torch.linalg.lstsq(design, y).solution
    return {
        "factors": [[round(v, 4) for v in row] for row in solution[:4].tolist()],
        "bias": [round(v, 4) for v in solution[4].tolist()],
    }


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo make_latents", description=__doc__)
    parser.add_argument("--cache", type=Path, default=FIRST.cache)
    parser.add_argument("--scenes", type=int, default=16000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args(argv)
    import_host()
    torch.set_num_threads(1)
    rng, clock = np.random.default_rng(args.seed), Clock()
    scenes = [sample_scene(rng) for _ in range(args.scenes)]
    tokens = tokenize([caption(s, rng) for s in scenes for _ in range(CAPTIONS)])
    latents, small = encode_all(scenes, args.threads)
    args.cache.mkdir(parents=True, exist_ok=True)
    save_file(
        {"latents": latents, "tokens": tokens.view(len(scenes), CAPTIONS, -1)}, args.cache / "latents.safetensors"
    )
    (WEIGHTS / "latent_rgb.json").write_text(
        json.dumps(fit_preview(latents[:2000], small[:2000])) + "\n", encoding="ascii"
    )
    z = latents.float()
    log(
        "latents",
        scenes=len(scenes),
        seconds=clock(),
        mean=z.mean().item(),
        std=z.std().item(),
        channel_std=[round(v, 4) for v in z.std((0, 2, 3)).tolist()],
    )
