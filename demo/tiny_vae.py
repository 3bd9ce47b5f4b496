"""A narrow autoencoder with TAESD's architecture, for training.

The host's TAESD is 64 channels wide everywhere, which is slow to train on a CPU and wasteful to store.
Here each resolution has its own smaller width; `widening` pads the weights to the host's width.

Images are (B, 3, H, W) in [0, 1], latents (B, 4, H/8, W/8) with about unit variance per channel.
Key names equal those of `comfy.taesd.taesd.TAESD`.
"""

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 48, 64)  # channels at 1, 1/2, 1/4 and 1/8 of the image's resolution
LATENT_CHANNELS = 4


class Clamp(nn.Module):
    """Soft clamp of latents to (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return 3 tanh(x / 3)."""
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """relu(conv-relu-conv-relu-conv(x) + x) at constant width."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, width, H, W)."""
        return torch.relu(self.conv(x) + x)


def _conv(n_in: int, n_out: int, **options) -> nn.Conv2d:
    """3x3 convolution that keeps the size (or halves it with stride=2)."""
    return nn.Conv2d(n_in, n_out, 3, padding=1, **options)


def encoder(widths: tuple[int, ...] = WIDTHS) -> nn.Sequential:
    """Image in [0, 1] -> latent, with the layers in the order of the host's encoder."""
    layers: list[nn.Module] = [_conv(3, widths[0]), Block(widths[0])]
    for narrow, wide in zip(widths, widths[1:]):
        layers += [_conv(narrow, wide, stride=2, bias=False), Block(wide), Block(wide), Block(wide)]
    return nn.Sequential(*layers, _conv(widths[-1], LATENT_CHANNELS))


def decoder(widths: tuple[int, ...] = WIDTHS) -> nn.Sequential:
    """Latent -> image in about [0, 1], with the layers in the order of the host's decoder."""
    layers: list[nn.Module] = [Clamp(), _conv(LATENT_CHANNELS, widths[-1]), nn.ReLU()]
    for wide, narrow in zip(widths[:0:-1], widths[-2::-1]):
        layers += [Block(wide), Block(wide), Block(wide), nn.Upsample(scale_factor=2), _conv(wide, narrow, bias=False)]
    return nn.Sequential(*layers, Block(widths[0]), _conv(widths[0], 3))


class TinyVAE(nn.Module):
    """Encoder and decoder with the host's key names."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        self.taesd_encoder = encoder(widths)
        self.taesd_decoder = decoder(widths)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 4, H/8, W/8)."""
        return self.taesd_encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, 3, 8h, 8w) in about [0, 1]."""
        return self.taesd_decoder(latents)
