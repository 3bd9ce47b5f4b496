"""Evaluate the demo model with ComfyUI's own sampler: `python demo evaluate --cfg 3 --grid out.png`.

256 prompts of training combinations, half of them full captions and half as short as "a red sphere", are
sampled with 25 DDIM steps (the flow twin, `--model flow`, with 25 Euler steps) and classified by the attribute
classifier (`reader`); an attribute is scored if the prompt names it. Also measured: the time per batch of 16 (best of
three), and the Frechet distance between samples and renders on the features of the classifier.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .captions import plain_caption
from .reader import accuracy, features, read_attributes
from .render import render_batch
from .scenes import ATTRIBUTES, Scene, sample_scene
from .train_log import WEIGHTS, import_host, log

STEPS, CFG = 25, 3.0
SAMPLERS = {"diffusion": ("ddim", "ddim_uniform"), "flow": ("euler", "simple")}
SAMPLER, SCHEDULER = SAMPLERS["diffusion"]


def prompts_for(scenes: list[Scene]) -> tuple[list[str], list[dict[str, str]]]:
    """One prompt per scene, alternating between full and short, and attribute -> word as each prompt names them."""
    prompts, wanted = [], []
    for i, scene in enumerate(scenes):
        short = i % 2 == 1
        prompts.append(f"a {scene.color} {scene.shape}" if short else plain_caption(scene))
        names = ("shape", "color") if short else tuple(ATTRIBUTES)
        wanted.append({name: getattr(scene, name) for name in names})
    return prompts, wanted


def encode_prompts(clip: object, prompts: list[str]) -> list:
    """CONDITIONING for a batch with one prompt per image, encoded as CLIPTextEncode does it."""
    conds = [clip.encode_from_tokens_scheduled(clip.tokenize(p))[0] for p in prompts]
    pooled = torch.cat([extra["pooled_output"] for _, extra in conds])
    return [[torch.cat([cond for cond, _ in conds]), {"pooled_output": pooled}]]


def sample_images(
    checkpoint: tuple,
    prompts: list[str],
    seed: int = 0,
    steps: int = STEPS,
    cfg: float = CFG,
    sampler: str = SAMPLER,
    scheduler: str = SCHEDULER,
    batch: int = 32,
    side: int | None = None,
) -> Tensor:
    """Sample one image per prompt with ComfyUI's KSampler.

    checkpoint: (MODEL, CLIP, VAE). The noise comes from a generator of its own.
    side: pixels of the images, IMAGE_SIZE unless given.
    Returns images (len(prompts), side, side, 3) in [0, 1].
    """
    import comfy.sample

    from .networks import IMAGE_SIZE

    model, clip, vae = checkpoint
    gen, side, images = torch.Generator().manual_seed(seed), (side or IMAGE_SIZE) // 8, []
    with torch.inference_mode():
        negative = encode_prompts(clip, [""])
        for start in range(0, len(prompts), batch):
            positive = encode_prompts(clip, prompts[start : start + batch])
            noise = torch.randn(len(positive[0][0]), 4, side, side, generator=gen)
            latent = comfy.sample.sample(
                model,
                noise,
                steps,
                cfg,
                sampler,
                scheduler,
                positive,
                negative,
                torch.zeros_like(noise),
                seed=seed,
                disable_pbar=True,
            )
            images.append(vae.decode(latent).float().cpu())
    return torch.cat(images)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mean difference|^2 + tr(A + B - 2 (A B)^(1/2)) of two feature sets (N, D), in float64."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def save_grid(images: Tensor, path: Path, columns: int = 16) -> None:
    """Write images (B, H, W, 3) in [0, 1] to one PNG; B is a multiple of `columns`."""
    from PIL import Image

    count, height, width, _ = images.shape
    rows = images.view(count // columns, columns, height, width, 3).permute(0, 2, 1, 3, 4)
    array = (rows.reshape(-1, columns * width, 3).clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()
    Image.fromarray(array).save(path)


def measure(
    checkpoint: tuple, count: int, cfg: float, seed: int, kind: str = "diffusion"
) -> tuple[dict[str, float], Tensor]:
    """Accuracies, Frechet distance and seconds per batch of 16 (best of three), and the images; kind: of SAMPLERS."""
    sampler, scheduler = SAMPLERS[kind]
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    prompts, wanted = prompts_for(scenes)
    images = sample_images(checkpoint, prompts, seed, cfg=cfg, sampler=sampler, scheduler=scheduler)
    both = accuracy_of_pairs(images, wanted)
    seconds = min(seconds_for(checkpoint, prompts[:16], cfg) for _ in range(3))
    renders = render_batch([sample_scene(rng) for _ in range(1024)])[0]
    figures = {
        **accuracy(images, wanted),
        "shape_and_color": both,
        "seconds_batch_16": seconds,
        "frechet": frechet_distance(features(images), features(renders)),
    }
    return {k: round(v, 4) for k, v in figures.items()}, images


def seconds_for(checkpoint: tuple, prompts: list[str], cfg: float) -> float:
    """Seconds for sampling and decoding one batch."""
    start = time.monotonic()
    sample_images(checkpoint, prompts, cfg=cfg, batch=len(prompts))
    return time.monotonic() - start


def accuracy_of_pairs(images: Tensor, wanted: list[dict[str, str]]) -> float:
    """Fraction of images with both the shape and the colour of the prompt."""
    return sum(all(r[n] == w[n] for n in ("shape", "color")) for r, w in zip(read_attributes(images), wanted)) / len(
        wanted
    )


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo evaluate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--model", choices=list(SAMPLERS), default="diffusion")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--cfg", type=float, nargs="+", default=[CFG])
    parser.add_argument("--grid", type=Path, help="write the first 64 images of the last --cfg to this PNG")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--log", action="store_true", help="append the figures to the training log")
    args = parser.parse_args(argv)
    import_host()
    torch.set_num_threads(args.threads)
    from .networks import load_demo_checkpoint

    checkpoint = load_demo_checkpoint(args.weights, args.model)
    for cfg in args.cfg:
        figures, images = measure(checkpoint, args.count, cfg, args.seed, args.model)
        record = {"model": args.model, "count": args.count, "steps": STEPS, "cfg": cfg, "seed": args.seed, **figures}
        print(json.dumps(record)) if not args.log else log("evaluate", **record)
    if args.grid:
        save_grid(images[:64], args.grid)
