"""Train the autoencoder: `python demo train_vae --minutes 11`.

Loss: L1 + MSE of the pixels + L1 of their finite differences, with Gaussian noise on the latent so that
nearby latents decode alike, and a penalty that pulls each latent channel to zero mean and unit variance. For
the last part of the time the encoder is frozen, with its last layer rescaled so that each latent channel has
exactly that mean and variance over training images, and only the decoder is trained.

Data: 64x64 crops of renders of any combination and of their depth as grey images, and smooth or plain images.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from .render import DEPTH_FAR, DEPTH_NEAR, depth_image
from .scenes import sample_scene
from .tiny_vae import TinyVAE
from .train_log import WEIGHTS, Clock, Threads, generators, log, render_pool, save_half

CROP, BATCH = 64, 16
PEAK_LR, DECODER_SHARE = 1.5e-3, 0.25  # DECODER_SHARE: fraction of the time with a frozen encoder
LATENT_NOISE = 0.05


def smooth_images(count: int, size: int, gen: torch.Generator) -> Tensor:
    """Plain and smoothly varying images (count, 3, size, size) in [0, 1], including black and white ones."""
    coarse = torch.rand(count, 3, 4, 4, generator=gen)
    grey = torch.rand(count, 1, 1, 1, generator=gen) < 0.5
    coarse = torch.where(grey, coarse[:, :1], coarse)
    kind = torch.randint(0, 4, (count, 1, 1, 1), generator=gen)
    coarse = torch.where(kind == 0, coarse[:, :, :1, :1].round(), coarse)
    coarse = torch.where(kind == 1, coarse[:, :, :1, :1], coarse)
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def sample_batch(images: Tensor, depths: Tensor, gen: torch.Generator) -> Tensor:
    """A training batch (BATCH, 3, CROP, CROP): 11 renders, 4 depth images, 1 smooth image."""
    rows = torch.randint(0, len(images), (BATCH - 1,), generator=gen).tolist()
    corner = torch.randint(0, images.shape[-1] - CROP + 1, (BATCH - 1, 2), generator=gen).tolist()
    out = []
    for i, (row, (y, x)) in enumerate(zip(rows, corner)):
        window = (slice(y, y + CROP), slice(x, x + CROP))
        if i < 4:
            grey = depth_image(depths[row].float()).permute(2, 0, 1)[(slice(None), *window)]
            out.append(_stretch(grey, gen))
        else:
            out.append(images[row][(slice(None), *window)].float() / 255)
    return torch.cat([torch.stack(out), smooth_images(1, CROP, gen)])


def depth_range() -> tuple[float, float]:
    """Depths in metres that are black and white in the training images."""
    return DEPTH_NEAR, DEPTH_FAR


def _stretch(grey: Tensor, gen: torch.Generator) -> Tensor:
    """Depth images of other conventions: inverted half of the time, stretched to the full range half of the time."""
    kind = int(torch.randint(0, 4, (), generator=gen))
    if kind >= 2:
        grey = (grey - grey.min()) / (grey.max() - grey.min()).clamp_min(1e-3)
    return 1 - grey if kind % 2 else grey


def reconstruction_loss(out: Tensor, target: Tensor) -> Tensor:
    """Loss on pixels and their finite differences, a scalar."""
    dx = (out[..., 1:] - out[..., :-1]) - (target[..., 1:] - target[..., :-1])
    dy = (out[..., 1:, :] - out[..., :-1, :]) - (target[..., 1:, :] - target[..., :-1, :])
    error = out - target
    return error.abs().mean() + 4 * error.square().mean() + dx.abs().mean() + dy.abs().mean()


def moment_penalty(z: Tensor) -> Tensor:
    """Mean square of the channels' means plus that of their log variances, for latents (B, C, h, w); a scalar."""
    var, mean = torch.var_mean(z.float(), dim=(0, 2, 3))
    return mean.square().mean() + var.clamp_min(1e-4).log().square().mean()


@torch.no_grad()
def normalise_encoder(vae: TinyVAE, images: Tensor) -> None:
    """Rescale the encoder's last layer, in place, to zero mean and unit variance per channel over uint8 `images`."""
    z = torch.cat([vae.encode(part.float() / 255) for part in images.split(64)])
    var, mean = torch.var_mean(z, dim=(0, 2, 3))
    last = vae.taesd_encoder[-1]
    last.weight.div_(var.sqrt()[:, None, None, None])
    last.bias.sub_(mean).div_(var.sqrt())


def new_vae(seed: int, start: Path | None) -> TinyVAE:
    """A newly initialised autoencoder, or the one in the file `start`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = TinyVAE()
    if start is not None:
        vae.load_state_dict({k: v.float() for k, v in load_file(start).items()})
    return vae.to(memory_format=torch.channels_last)


def train(vae: TinyVAE, args: argparse.Namespace, images: Tensor, depths: Tensor) -> TinyVAE:
    """Train in place for args.minutes and return the autoencoder; args: as parsed by `main`."""
    gen = torch.Generator().manual_seed(args.seed + 1)
    opt = torch.optim.AdamW(vae.parameters(), PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-3)
    clock, threads, step, frozen = Clock(), Threads(args.threads), 0, False
    while (done := clock() / (60 * args.minutes)) < 1:
        if not frozen and (args.decoder_only or done > 1 - DECODER_SHARE):
            frozen = True
            if not args.decoder_only:
                normalise_encoder(vae, images[:1024])
            vae.taesd_encoder.requires_grad_(False)
        threads()
        warm = min(1.0, (step + 1) / 100)
        for group in opt.param_groups:
            group["lr"] = PEAK_LR * warm * (1 - done) ** 0.7 + 1e-6
        x = sample_batch(images, depths, gen)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = vae.encode(x).float()
            out = vae.decode(z + LATENT_NOISE * torch.randn(z.shape, generator=gen)).float()
        loss = reconstruction_loss(out, x)
        (loss if frozen else loss + 0.02 * moment_penalty(z)).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        opt.step()
        opt.zero_grad()
        if step % 100 == 0:
            mse = (out.detach().clamp(0, 1) - x).square().mean()
            log(
                "vae",
                step=step,
                seconds=clock(),
                loss=loss.item(),
                psnr=-10 * mse.log10().item(),
                std=z.detach().std().item(),
            )
        step += 1
    return vae


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo train_vae", description=__doc__)
    parser.add_argument("--minutes", type=float, default=11.0)
    parser.add_argument("--scenes", type=int, default=6000)
    parser.add_argument("--start", type=Path, help="continue from these weights")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "vae.safetensors")
    parser.add_argument("--decoder-only", action="store_true", help="do not train the encoder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    rng, _ = generators(args.seed)
    scenes = [sample_scene(rng, held_out=None if i % 4 == 0 else False) for i in range(args.scenes)]
    images, depths = render_pool(scenes, 96)
    vae = train(new_vae(args.seed, args.start), args, images, depths)
    save_half(vae.state_dict(), args.out)
