"""The sigmas that a run on a converted model is given, as the noise levels that were meant.

Sigmas above 1 are no flow sigmas: nodes that know no model (Align Your Steps, Karras) make those of a diffusion
model. And a few of ComfyUI's schedulers look at nothing but the first and the last sigma, between which they space a
function of sigma evenly:

    karras: sigma^(1/7)        exponential: log sigma        kl_optimal: arctan sigma

On a converted model they would space s, which gives other noise levels than sigma_ve spaced in the same way, and with
them another img2img strength. By that function, their sigmas, or any part of them, can be told from all others.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from ..flow_sampling import FlowSampling
from .coordinates import from_ve, to_ve

TOLERANCE = 2e-6  # relative, of sigmas in float32
# Most steps of a schedule to recognise by two sigmas, and by more: in a finer one any neighbours look evenly spaced.
MOST_STEPS = (50, 1000)


class Spacing(NamedTuple):
    """A function of sigma that a scheduler spaces evenly, and its inverse."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


SPACINGS: Mapping[str, Spacing] = MappingProxyType(
    {
        "karras": Spacing(lambda sigma: sigma ** (1 / 7), lambda u: u**7),
        "exponential": Spacing(torch.log, torch.exp),
        "kl_optimal": Spacing(torch.arctan, torch.tan),
    }
)
"""Name of a scheduler -> what it spaces."""


def flow_levels(flow: FlowSampling, sigmas: Tensor) -> tuple[Tensor, str]:
    """The flow sigmas to run for those that a sampler was given, (N,), and a sentence about a change, or "".

    Raises:
        ValueError: a sigma is negative, NaN or infinite.
    """
    if not bool(torch.isfinite(sigmas).all()) or bool((sigmas < 0).any()):
        raise ValueError(
            f"the sigmas of this run must be numbers from 0 up, but are {listed(sigmas)}; correct the node "
            "that makes them"
        )
    if len(sigmas) and float(sigmas.max()) > 1 + TOLERANCE:
        levels = from_ve(sigmas)
        return levels, (
            f"the sigmas of this run, up to {float(sigmas.max()):.4g}, are those of a diffusion model; they are taken "
            f"as the same noise levels of the flow, s = sigma / (1 + sigma), from {float(levels[0]):.4g}"
        )
    return _as_unconverted(flow, sigmas), ""


def listed(sigmas: Tensor) -> str:
    """The first sigmas as text."""
    return ", ".join(f"{sigma:.4g}" for sigma in sigmas[:8].tolist()) + (", ..." if len(sigmas) > 8 else "")


def _as_unconverted(flow: FlowSampling, sigmas: Tensor) -> Tensor:
    """Sigmas of a scheduler of ``SPACINGS`` at the levels that it has on the diffusion model; others as they are.

    Without such levels, that is from pure noise or for a network that is no longer a diffusion model's, all stay.
    """
    if flow.start != "t_min" or not flow.aligned:
        return sigmas
    inner = sigmas[sigmas > 0].cpu().double()
    ends = torch.stack([flow.sigma_max, flow.sigma_min]).cpu().double()
    for spacing in SPACINGS.values():
        places = _places(spacing, inner, ends)
        if places is not None:
            moved = sigmas.clone()
            moved[sigmas > 0] = from_ve(_spaced(spacing, places, to_ve(ends))).to(sigmas)
            return moved
    return sigmas


def _places(spacing: Spacing, inner: Tensor, ends: Tensor) -> Tensor | None:
    """Where sigmas lie between both ends, 0 to 1, if they are neighbours of an evenly spaced schedule."""
    if len(inner) < 2:
        return None
    (first, last), values = spacing.forward(ends), spacing.forward(inner)
    steps = (first - last) * (len(inner) - 1) / (values[0] - values[-1])
    if not 0.5 < float(steps.abs()) < MOST_STEPS[len(inner) > 2]:
        return None
    start = ((first - values[0]) / (first - last) * steps.abs()).round()
    places = (start + torch.arange(len(inner), dtype=torch.float64) * steps.sign()) / steps.abs().round()
    is_this = ((_spaced(spacing, places, ends) - inner).abs() <= TOLERANCE * inner) & (places >= 0) & (places <= 1)
    return places if bool(is_this.all()) else None


def _spaced(spacing: Spacing, places: Tensor, ends: Tensor) -> Tensor:
    first, last = spacing.forward(ends)
    return spacing.inverse(first + places * (last - first))
