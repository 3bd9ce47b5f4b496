"""Model Report's probe in `bench flow`: latents that have to be refused, and the figures that it decides by."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from diff2flow_kit.d2f_core.probe import LEVELS, Finding, probe
from diff2flow_kit.nodes import host

WRONG = {
    **{f"scaled by {scale:g}": partial(torch.mul, other=scale) for scale in (0.18, 0.5, 2.0, 5.5)},
    "of another VAE": lambda x0: x0[:, [2, 0, 3, 1]] * torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 4, 1, 1),
    "noise": lambda x0: torch.randn(x0.shape, generator=torch.Generator().manual_seed(17)),
}
"""Latents that no network can be told by: name -> made of latents of scenes."""


def find(model: Any, positive: Any, latents: Tensor, seed: int) -> Finding:
    """What Model Report's probe finds."""
    x0, found = host.probe_latents(model, latents), []
    options = host.probe_candidates(model)
    host.probe_network(model, positive, x0.shape, LEVELS, lambda ask: found.append(probe(ask, options, x0, seed)))
    return found[0]


def row_of(found: Finding, part: str, seed: int, **more: Any) -> dict[str, Any]:
    """The figures that a probe decides by."""
    worst = sorted((max(errors), name) for name, errors in found.errors.items())
    (error, best), (other, after) = worst[:2]
    off = max(abs(slope - 1) for slope in found.slopes[best])
    figures = {
        "best": best,
        "error": round(error, 3),
        "after": after,
        "next": round(other, 3),
        "slope_off": round(off, 3),
    }
    return {"part": part, "seed": seed, **more, "named": found.name or "-", **figures}
