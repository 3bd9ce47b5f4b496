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
from .train_log import LOG, WEIGHTS, Clock, Threads, generators, half_precision, log, render_pool, save_half

CROP, BATCH = 64, 16
PEAK_LR, DECODER_SHARE = 1.5e-3, 0.25  # DECODER_SHARE: fraction of the time with a frozen encoder
LATENT_NOISE = 0.05
LOG_EVERY, SAVE_EVERY = 100, 240.0  # steps, seconds


def smooth_images(count: int, size: int, gen: torch.Generator) -> Tensor:
    """Plain and smoothly varying images (count, 3, size, size) in [0, 1], including black and white ones."""
    coarse = torch.rand(count, 3, 4, 4, generator=gen)
    grey = torch.rand(count, 1, 1, 1, generator=gen) < 0.5
    coarse = torch.where(grey, coarse[:, :1], coarse)
    kind = torch.randint(0, 4, (count, 1, 1, 1), generator=gen)
    coarse = torch.where(kind == 0, coarse[:, :, :1, :1].round(), coarse)
    coarse = torch.where(kind == 1, coarse[:, :, :1, :1], coarse)
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def sample_batch(images: Tensor, depths: Tensor, weights: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """A training batch (BATCH, 3, CROP, CROP): 11 renders, 4 depth images, 1 smooth image; and the weights of its
    pixels (BATCH, 1, CROP, CROP). `weights`: uint8 of each pixel of `images`, or one for all, (N or 1, H or 1, W or 1).
    """
    weights = weights.expand(len(images), *images.shape[2:])
    rows = torch.randint(0, len(images), (BATCH - 1,), generator=gen).tolist()
    corner = torch.randint(0, images.shape[-1] - CROP + 1, (BATCH - 1, 2), generator=gen).tolist()
    out, heavy = [], []
    for i, (row, (y, x)) in enumerate(zip(rows, corner)):
        window = (slice(y, y + CROP), slice(x, x + CROP))
        if i < 4:
            grey = depth_image(depths[row].float()).permute(2, 0, 1)[(slice(None), *window)]
            out.append(_stretch(grey, gen))
        else:
            out.append(images[row][(slice(None), *window)].float() / 255)
        heavy.append(weights[row][window].float())
    heavy.append(torch.ones(CROP, CROP))
    return torch.cat([torch.stack(out), smooth_images(1, CROP, gen)]), torch.stack(heavy)[:, None]


def depth_range() -> tuple[float, float]:
    """Depths in metres that are black and white in the training images."""
    return DEPTH_NEAR, DEPTH_FAR


def _stretch(grey: Tensor, gen: torch.Generator) -> Tensor:
    """Depth images of other conventions: inverted half of the time, stretched to the full range half of the time."""
    kind = int(torch.randint(0, 4, (), generator=gen))
    if kind >= 2:
        grey = (grey - grey.min()) / (grey.max() - grey.min()).clamp_min(1e-3)
    return 1 - grey if kind % 2 else grey


def reconstruction_loss(out: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Loss on pixels and their finite differences, both weighted, a scalar; weight: (B, 1, H, W) or a number."""
    weight = torch.as_tensor(weight, device=out.device).expand(out.shape[0], 1, *out.shape[2:])
    dx = (out[..., 1:] - out[..., :-1]) - (target[..., 1:] - target[..., :-1])
    dy = (out[..., 1:, :] - out[..., :-1, :]) - (target[..., 1:, :] - target[..., :-1, :])
    error = out - target
    pixels = (weight * (error.abs() + 4 * error.square())).mean()
    return pixels + (weight[..., 1:] * dx.abs()).mean() + (weight[..., 1:, :] * dy.abs()).mean()


def moment_penalty(z: Tensor) -> Tensor:
    """Mean square of the channels' means plus that of their log variances, for latents (B, C, h, w); a scalar."""
    var, mean = torch.var_mean(z.float(), dim=(0, 2, 3))
    return mean.square().mean() + var.clamp_min(1e-4).log().square().mean()


@torch.no_grad()
def normalise_encoder(vae: TinyVAE, images: Tensor) -> None:
    """Rescale the encoder's last layer, in place, to zero mean and unit variance per channel over uint8 `images`."""
    device = next(vae.parameters()).device
    z = torch.cat([vae.encode(part.to(device).float() / 255) for part in images.split(64)])
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


@torch.no_grad()
def reconstruction_psnr(vae: TinyVAE, images: Tensor, chosen: Tensor | None = None) -> float:
    """PSNR in dB, without latent noise, of all pixels of uint8 `images` (N, 3, H, W) together, or of those `chosen`
    (N, H, W)."""
    device, errors = next(vae.parameters()).device, []
    for part in images.split(32):
        x = (part.to(device).float() / 255).contiguous(memory_format=torch.channels_last)
        errors.append((vae.decode(vae.encode(x)).clamp(0, 1) - x).square().mean(1).cpu())
    error = torch.cat(errors)
    return -10 * (error if chosen is None else error[chosen]).mean().log10().item()


def train(
    vae: TinyVAE,
    args: argparse.Namespace,
    images: Tensor,
    depths: Tensor,
    weights: Tensor | None = None,
    fresh: Tensor | None = None,
    log_file: Path = LOG,
) -> TinyVAE:
    """Train in place for args.minutes and return the autoencoder; it is also saved to args.out at intervals.

    args: as parsed by `main`. weights: of the pixels of `images`, uint8 (N, H, W), equal unless given.
    fresh: uint8 images that are not trained on, whose PSNR is logged.
    """
    weights = torch.ones(1, 1, 1, dtype=torch.uint8) if weights is None else weights
    gen, device = torch.Generator().manual_seed(args.seed + 1), torch.device(args.device)
    vae.to(device)
    opt = torch.optim.AdamW(vae.parameters(), args.rate, betas=(0.9, 0.99), weight_decay=1e-3)
    clock, threads, step, frozen, saved = Clock(), Threads(args.threads), 0, False, 0.0
    while (done := clock() / (60 * args.minutes)) < 1:
        if not frozen and (args.decoder_only or done > 1 - DECODER_SHARE):
            frozen = True
            if not args.decoder_only:
                normalise_encoder(vae, images[:1024])
            vae.taesd_encoder.requires_grad_(False)
        threads()
        warm = min(1.0, (step + 1) / 100)
        for group in opt.param_groups:
            group["lr"] = args.rate * warm * (1 - done) ** 0.7 + 1e-6
        x, heavy = (part.to(device) for part in sample_batch(images, depths, weights, gen))
        x = x.contiguous(memory_format=torch.channels_last)
        with half_precision(device):
            z = vae.encode(x).float()
            noise = torch.randn(z.shape, generator=gen).to(device)
            out = vae.decode(z + LATENT_NOISE * noise).float()
        loss = reconstruction_loss(out, x, heavy)
        (loss if frozen else loss + 0.02 * moment_penalty(z)).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        opt.step()
        opt.zero_grad()
        if step % LOG_EVERY == 0:
            mse = (out.detach().clamp(0, 1) - x).square().mean()
            figures = {"psnr": -10 * mse.log10().item(), "std": z.detach().std().item()}
            if fresh is not None:
                figures["fresh_psnr"] = reconstruction_psnr(vae, fresh)
            log("vae", log_file, step=step, seconds=clock(), loss=loss.item(), **figures)
        step += 1
        if clock() - saved > SAVE_EVERY:
            save_half(vae.state_dict(), args.out)
            saved = clock()
    return vae


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What `train` reads of the command line, except --minutes and --out."""
    parser.add_argument("--decoder-only", action="store_true", help="do not train the encoder")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rate", type=float, default=PEAK_LR, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="demo train_vae", description=__doc__)
    parser.add_argument("--minutes", type=float, default=11.0)
    parser.add_argument("--scenes", type=int, default=6000)
    parser.add_argument("--start", type=Path, help="continue from these weights")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "vae.safetensors")
    add_common_arguments(parser)
    args = parser.parse_args(argv)
    rng, _ = generators(args.seed)
    scenes = [sample_scene(rng, held_out=None if i % 4 == 0 else False) for i in range(args.scenes)]
    images, depths = render_pool(scenes, 96)
    vae = train(new_vae(args.seed, args.start), args, images, depths)
    save_half(vae.state_dict(), args.out)
