"""What a network of each prediction is trained on: the states it sees, and what it has to answer.

    eps    x = alpha x0 + sigma eps    target eps                    min-SNR weight (5) [arXiv 2303.09556]
    v      the same                    target alpha eps - sigma x0   weight 1
    flow   x = s eps + (1 - s) x0      target eps - x0               weight 1

eps and v draw rows of the host's own table, uniformly; flow draws s, and its timestep is 1000 s, the convention of SD3
[arXiv 2403.03206]. Where solids stand is decided at the highest noise levels, which say little in the loss: a share of
the samples comes from there, and for eps these rows may weigh more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

MIN_SNR, NOISY_ROW = 5.0, 600
NOISY_FROM, PURE_NOISE, MULTIPLIER = 0.7, 0.02, 1000.0


@dataclass(frozen=True)
class Noise:
    """How noise levels are drawn and weighted."""

    noisy_share: float = 0.0
    """Fraction of samples from rows NOISY_ROW to 999, or from s in [NOISY_FROM, 1]."""
    noisy_weight: float = 1.0
    """Highest loss weight of a very noisy row; eps only."""


class Sample(NamedTuple):
    """States (B, C, h, w), timesteps (B,), targets like the states, and weights of the squared errors (B,)."""

    state: Tensor
    timestep: Tensor
    target: Tensor
    weight: Tensor


def loss_weight(snr: Tensor, most: float) -> Tensor:
    """Weight of the eps error at a signal-to-noise ratio; both (B,).

    min(snr, MIN_SNR) / snr is 1 on every noisy row; with most > 1 the weight grows there like that of the x0
    error, 1 / snr, up to `most`. What strong noise decides, above all the position, is then learned sooner.
    """
    return snr.clamp_max(MIN_SNR) / snr * (1 / snr).clamp(1, most)


def draw_rows(count: int, rows: int, noise: Noise, gen: torch.Generator) -> Tensor:
    """Rows of the table, (count,)."""
    row = torch.randint(0, rows, (count,), generator=gen)
    noisy = torch.rand(count, generator=gen) < noise.noisy_share
    return torch.where(noisy, NOISY_ROW + row * (rows - NOISY_ROW) // rows, row)


def draw_levels(count: int, noise: Noise, gen: torch.Generator) -> Tensor:
    """Noise levels s (count,) in [0, 1]; PURE_NOISE of them are 1, where sampling starts."""
    s = torch.rand(count, generator=gen)
    noisy = torch.rand(count, generator=gen) < noise.noisy_share
    s = torch.where(noisy, NOISY_FROM + (1 - NOISY_FROM) * s, s)
    return torch.where(torch.rand(count, generator=gen) < PURE_NOISE, 1.0, s)


def _of_eps(x0: Tensor, sigmas: Tensor, noise: Noise, gen: torch.Generator) -> Sample:
    row, sigma_ve, eps, state = _diffused(x0, sigmas, noise, gen)
    return Sample(state, row.float(), eps, loss_weight(sigma_ve.flatten() ** -2, noise.noisy_weight))


def _of_v(x0: Tensor, sigmas: Tensor, noise: Noise, gen: torch.Generator) -> Sample:
    row, sigma_ve, eps, state = _diffused(x0, sigmas, noise, gen)
    target = (eps - sigma_ve * x0) / (1 + sigma_ve**2).sqrt()
    return Sample(state, row.float(), target, torch.ones(len(x0)))


def _of_flow(x0: Tensor, sigmas: Tensor, noise: Noise, gen: torch.Generator) -> Sample:
    s, eps = draw_levels(len(x0), noise, gen), torch.randn(x0.shape, generator=gen)
    s_b = s.view(-1, 1, 1, 1)
    return Sample(s_b * eps + (1 - s_b) * x0, MULTIPLIER * s, eps - x0, torch.ones(len(x0)))


def _diffused(
    x0: Tensor, sigmas: Tensor, noise: Noise, gen: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows (B,), their sigma / alpha (B, 1, 1, 1), eps, and the states alpha x0 + sigma eps."""
    row = draw_rows(len(x0), len(sigmas), noise, gen)
    sigma_ve, eps = sigmas[row].view(-1, 1, 1, 1), torch.randn(x0.shape, generator=gen)
    return row, sigma_ve, eps, (x0 + sigma_ve * eps) / (1 + sigma_ve**2).sqrt()


OBJECTIVES: Mapping[str, Callable[[Tensor, Tensor, Noise, torch.Generator], Sample]] = MappingProxyType(
    {"eps": _of_eps, "v": _of_v, "flow": _of_flow}
)
"""Prediction -> (x0 (B, C, h, w), sigmas of the table, noise, generator) to the sample, all on the CPU."""
