"""Features of a fixed random convolutional network, for Frechet distances between pictures of any kind.

Naeem et al. (arXiv 2002.09797, section 5) find that, far from the photos that classifiers are trained on, embeddings of
a network with random weights tell sets of pictures apart more faithfully than trained ones. Nothing is downloaded, and
nothing was trained on our scenes. Weights are orthogonal, from a generator of their own; a feature is the mean of a
channel over the picture, or its deviation.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

SIDE, WIDTHS, SEED = 64, (24, 32, 48, 64), 20020
FEATURES = 2 * WIDTHS[-1]


@cache
def weights() -> tuple[Tensor, ...]:
    """Kernels (n_out, n_in, 3, 3) of four convolutions, rows or columns orthogonal; the same wherever they are made."""
    generator, found = torch.Generator().manual_seed(SEED), []
    for n_in, n_out in zip((3, *WIDTHS), WIDTHS):
        normal = torch.randn(n_out, 9 * n_in, generator=generator, dtype=torch.float64)
        wide = n_out <= 9 * n_in
        rows = torch.linalg.qr(normal.T if wide else normal)[0]
        found.append((2**0.5 * (rows.T if wide else rows)).reshape(n_out, n_in, 3, 3).float())
    return tuple(found)


def features(images: Tensor) -> Tensor:
    """Images (N, H, W, 3) in [0, 1] to (N, FEATURES), float32 on the CPU."""
    with torch.inference_mode(False), torch.no_grad():
        x = images.detach().float().cpu().clone().permute(0, 3, 1, 2).clamp(0, 1) * 2 - 1
        x = functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        found = torch.cat([_look(part) for part in x.split(128)])
        return torch.cat([found.mean((2, 3)), found.std((2, 3))], 1)


def _look(x: Tensor) -> Tensor:
    """Each convolution halves the picture, and is followed by a ReLU."""
    for kernel in weights():
        x = functional.conv2d(x, kernel, stride=2, padding=1).relu()
    return x
