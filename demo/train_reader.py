"""Train the attribute classifier: `python demo train_reader --minutes 4`.

The loss is the cross entropy of every head on renders of all combinations. Half of the images have gone
through the autoencoder with a noisy latent; every image gets random blur, gain, offset and noise.
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from .make_latents import load_vae
from .reader import Reader
from .scenes import ATTRIBUTES, Scene, sample_scene
from .tiny_vae import TinyVAE
from .train_log import WEIGHTS, Clock, generators, half_precision, log, render_pool, save_half

BATCH, PEAK_LR = 64, 3e-3


def labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """Attribute -> index of its word in each scene, (N,)."""
    return {name: torch.tensor([words.index(getattr(s, name)) for s in scenes]) for name, words in ATTRIBUTES.items()}


@torch.no_grad()
def round_trips(images: Tensor, gen: torch.Generator, vae: TinyVAE | None = None) -> Tensor:
    """uint8 images (N, 3, H, W) through the autoencoder, with latent noise of standard deviation 0 to 0.25; uint8."""
    vae, out = vae or load_vae(), torch.empty_like(images)
    for start in range(0, len(images), 64):
        part = images[start : start + 64].float() / 255
        with half_precision("cpu"):
            z = vae.encode(part.contiguous(memory_format=torch.channels_last)).float()
            std = 0.25 * torch.rand(len(z), 1, 1, 1, generator=gen)
            decoded = vae.decode(z + std * torch.randn(z.shape, generator=gen)).float()
        out[start : start + 64] = (decoded.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    return out


def augment(x: Tensor, gen: torch.Generator) -> Tensor:
    """Apply random blur, small random gain and offset, and noise to images (B, 3, H, W) in [0, 1]."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=gen)

    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = x + uniform(-0.3, 1.0) * (blurred - x)
    x = x * uniform(0.94, 1.06) + uniform(-0.03, 0.03)
    return (x + uniform(0, 0.05) * torch.randn(x.shape, generator=gen)).clamp(0, 1)


@torch.no_grad()
def evaluate(reader: Reader, images: Tensor, target: dict[str, Tensor]) -> dict[str, float]:
    """Accuracy of each head on uint8 images, without augmentation."""
    reader.eval()
    parts = [reader(p.float() / 255) for p in images.split(256)]
    reader.train()
    read = {n: torch.cat([p[n] for p in parts]).argmax(1) for n in target}
    return {n: (read[n] == target[n]).float().mean().item() for n in target}


def train(minutes: float, images: Tensor, target: dict[str, Tensor], seed: int) -> Reader:
    """Train a new classifier for `minutes`.

    images: uint8 (N, 3, 96, 96); target: attribute -> word index (N,).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader()
    gen = torch.Generator().manual_seed(seed + 1)
    opt = torch.optim.AdamW(reader.parameters(), PEAK_LR, weight_decay=0.02)
    clock, step = Clock(), 0
    while (done := clock() / (60 * minutes)) < 1:
        for group in opt.param_groups:
            group["lr"] = PEAK_LR * min(1.0, (step + 1) / 100) * (1 - done) + 1e-6
        rows = torch.randint(0, len(images), (BATCH,), generator=gen)
        logits = reader(augment(images[rows].float() / 255, gen))
        loss = sum(F.cross_entropy(logits[n], target[n][rows], label_smoothing=0.02) for n in target)
        loss.backward()
        opt.step()
        opt.zero_grad()
        if step % 200 == 0:
            log("reader", step=step, seconds=clock(), loss=loss.item())
        step += 1
    return reader


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo train_reader", description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--scenes", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rng, gen = generators(args.seed)
    scenes = [sample_scene(rng, held_out=None if i % 2 else False) for i in range(args.scenes)]
    images, _ = render_pool(scenes, 96)
    target = labels(scenes)
    both = torch.cat([images, round_trips(images, gen)])
    reader = train(args.minutes, both, {n: v.repeat(2) for n, v in target.items()}, args.seed)
    save_half(reader.state_dict(), WEIGHTS / "reader.safetensors")
    fresh = [sample_scene(rng, held_out=None) for _ in range(1024)]
    images, _ = render_pool(fresh, 96)
    log(
        "reader",
        fresh_renders=evaluate(reader, images, labels(fresh)),
        round_trips=evaluate(reader, round_trips(images, gen), labels(fresh)),
    )
