"""The sigmas that a run on a converted model is given, as the noise levels that were meant.

Sigmas above 1 are no flow sigmas: nodes that know no model (Align Your Steps, Karras) make those of a diffusion
model. A part of them that lies below 1 is told from flow sigmas by the list that it was cut from, with which it shares
its memory (SplitSigmas, and every node that cuts by an index), or by the node that made it (``origin``).

And a few of ComfyUI's schedulers look at nothing but the first and the last sigma, between which they space a
function of sigma evenly:

    karras: sigma^(1/7)        exponential: log sigma        kl_optimal: arctan sigma

On a converted model they would space s, which gives other noise levels than sigma_ve spaced in the same way, and with
them another img2img strength. By that function, their sigmas, or any part of them, can be told from all others.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from ..flow_sampling import FlowSampling
from .coordinates import from_ve, to_ve
from .origin import DIFFUSION, FLOW, UNKNOWN, Maker

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


def flow_levels(flow: FlowSampling, sigmas: Tensor, makers: Collection[Maker] = ()) -> tuple[Tensor, str]:
    """The flow sigmas to run for those that a sampler was given, (N,), and a sentence for the user, or "".

    Args:
        flow: the converted model's sampling object.
        sigmas: what the sampler was given, (N,).
        makers: the nodes that made them, as far as that is known.

    Raises:
        ValueError: a sigma is negative, NaN or infinite, or was put above 1 among those of a flow.
    """
    if not bool(torch.isfinite(sigmas).all()) or bool((sigmas < 0).any()):
        raise ValueError(
            f"the sigmas of this run must be numbers from 0 up, but are {listed(sigmas)}; correct the node "
            "that makes them"
        )
    kinds, names = {maker.kind for maker in makers}, ", ".join(sorted({maker.node for maker in makers}))
    highest, before = (float(one.max()) if len(one) else 0.0 for one in (sigmas, uncut(sigmas)))
    if highest > 1 + TOLERANCE and kinds == {FLOW}:
        raise ValueError(
            f"the sigmas of this run, {listed(sigmas)}, come from {names}, which gives those of a flow, 0 to 1, but "
            f"one was set to {highest:.4g} (by SetFirstSigma?), as on a diffusion model; on a converted model set "
            f"s = sigma / (1 + sigma), here {highest / (1 + highest):.4g}"
        )
    if before > 1 + TOLERANCE or kinds == {DIFFUSION}:
        levels = from_ve(sigmas)
        return levels, (
            f"the sigmas of this run, up to {highest:.4g}, are those of a diffusion model"
            f"{f', from {names}' if names else ''}; they are taken as the same noise levels of the flow, "
            f"s = sigma / (1 + sigma), from {float(levels.max()) if len(levels) else 0.0:.4g}"
        )
    return _as_unconverted(flow, sigmas), _doubt(highest, names) if kinds & {UNKNOWN, DIFFUSION} else ""


def _doubt(highest: float, names: str) -> str:
    return (
        f"the sigmas of this run, up to {highest:.4g}, come from {names}, of which it is not known if they are of a "
        "flow or of a diffusion model. They are taken as those of a flow, s = 1 - t; if they are of a diffusion model, "
        "the picture is wrong: take them from BasicScheduler or Flow Scheduler, connected to the converted model, or "
        f"use s = sigma / (1 + sigma), which makes {highest / (1 + highest):.4g} of {highest:.4g}"
    )


def uncut(sigmas: Tensor) -> Tensor:
    """The list of which sigmas are a part, (M,): all that their memory holds, if it is a list that falls or rises."""
    memory = sigmas.untyped_storage()
    whole = sigmas.as_strided((memory.nbytes() // sigmas.element_size(),), (1,), 0)
    steps = whole.diff()
    is_list = sigmas.ndim == 1 and bool((whole >= 0).all()) and bool((steps <= 0).all() or (steps >= 0).all())
    return whole if is_list else sigmas


def listed(sigmas: Tensor) -> str:
    """The first sigmas as text."""
    return ", ".join(f"{sigma:.4g}" for sigma in sigmas[:8].tolist()) + (", ..." if len(sigmas) > 8 else "")


def _as_unconverted(flow: FlowSampling, sigmas: Tensor) -> Tensor:
    """Sigmas of a scheduler of ``SPACINGS`` at the levels that it has on the diffusion model; others as they are.

    The first of a start from pure noise stays 1. For a network that is no longer a diffusion model's, all stay.
    """
    if not flow.aligned:
        return sigmas
    inner = sigmas[sigmas > 0].cpu().double()
    ends = torch.stack([flow.sigma_max, flow.sigma_min]).cpu().double()
    diffusion = torch.tensor([1 - flow.alignment.t_min, float(ends[1])], dtype=torch.float64)
    for spacing in SPACINGS.values():
        places = _places(spacing, inner, ends)
        if places is not None:
            moved = sigmas.clone()
            levels = from_ve(_spaced(spacing, places, to_ve(diffusion)))
            moved[sigmas > 0] = torch.where(places == 0, ends[0], levels).to(sigmas)
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
