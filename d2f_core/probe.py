"""What a network returns, found by asking it about mixtures whose noise is known.

A latent x0 and noise eps are mixed at a few middle levels, the network is asked once in each kind of coordinates (those
of a diffusion, those of the flow), and its answer is read in every way of ``PREDICTIONS``, always as the same quantity,
u = eps - x0, minus the velocity:

    x_fm = s eps + (1 - s) x0        u_c = -velocity_c(output, x_fm, t)        for each candidate c

A trained network returns the mean of its target given x_fm. Read rightly, u_c is therefore E[u | x_fm]: its error is
the deviation that is left of u given x_fm, and is orthogonal to u_c. Read wrongly, a bias is added:

    error_c^2 = |u_c - u|^2 / |u|^2 = rest^2 + bias_c^2        slope_c = <u_c, u> / <u_c, u_c>, 1 for the right one

The rest is a property of the latents, and may be large; the bias is not, so two candidates are told apart by the
difference of their squares. The network is named after the candidate with the least error at its worst level if

    error <= MOST_ERROR                        it explains much of u, so latents and conditioning are what it knows
    |slope - 1| <= MOST_SLOPE_OFF              at every level: latents of another scale make it too bold, or too timid
    next error^2 - error^2 >= LEAST_GAP        no other candidate explains its answer nearly as well

and otherwise the probe cannot tell. The answer itself is regressed on noise and latent, ``output = a eps + b x0``:
(1, 0) for an eps network that knows all, (alpha, -sigma) for v, (0, 1) for x0, (1, -1) for flow.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .continuous import FlowSchedule, Schedule
from .loss import Interpolant, ModelInput
from .prediction import PREDICTIONS
from .velocity import FlowAlignment

LEVELS = (0.3, 0.5, 0.7)
"""Flow sigmas s that are probed: at high noise all networks look alike, at low noise eps is hard to see."""

MOST_ERROR, MOST_SLOPE_OFF, LEAST_GAP = 0.7, 0.1, 0.08


class Candidate(NamedTuple):
    """What a network might be.

    Attributes:
        name: one of ``PREDICTIONS``.
        coordinates: how the network is asked; candidates that share it are read from the same answers.
        alignment: maps between the flow and the network, in both directions.
    """

    name: str
    coordinates: str
    alignment: FlowAlignment


def candidates(diffusion: Schedule, flow: FlowSchedule, sigma_data: float = 1.0) -> list[Candidate]:
    """One candidate for each row of ``PREDICTIONS``, asked over the schedule of its kind."""
    return [
        Candidate(name, "flow", FlowAlignment(flow, name))
        if row.is_flow
        else Candidate(name, "diffusion", FlowAlignment(diffusion, name, sigma_data))
        for name, row in PREDICTIONS.items()
    ]


# (flow sigma s, network input and timestep) -> the network's answer (B, *)
Network = Callable[[float, ModelInput], Tensor]


@dataclass(frozen=True)
class Finding:
    """What a probe has found.

    Attributes:
        name: of the candidate that the network is; "" if the probe cannot tell.
        reason: why, with the figures.
        errors, slopes: name of the candidate -> relative error and slope at each level.
        answers: coordinates -> (a, b) of ``output = a eps + b x0`` at each level.
    """

    name: str
    reason: str
    errors: Mapping[str, Sequence[float]]
    slopes: Mapping[str, Sequence[float]]
    answers: Mapping[str, Sequence[tuple[float, float]]]


@torch.no_grad()
def probe(network: Network, options: Sequence[Candidate], x0: Tensor, seed: int) -> Finding:
    """Ask the network at each level in each kind of coordinates, and compare the candidates.

    Args:
        network: called ``len(LEVELS)`` times for each kind of coordinates.
        options: at least two candidates.
        x0: clean latents (B, *) in the network's own scale, float32; four or more of real images.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(x0.shape, generator=generator).to(x0.device) for _ in LEVELS]
    errors, slopes = ({one.name: list[float]() for one in options} for _ in range(2))
    answers: dict[str, list[tuple[float, float]]] = {}
    for coordinates in dict.fromkeys(one.coordinates for one in options):
        readers = [one for one in options if one.coordinates == coordinates]
        for s, eps in zip(LEVELS, noise):
            pair = Interpolant(x0, eps, torch.full((len(x0),), 1 - s, dtype=torch.float64))
            output = network(s, _asked(readers[0].alignment, pair)).to(x0.device, torch.float32)
            answers.setdefault(coordinates, []).append(regress(output, eps, x0))
            for one in readers:
                error, slope = compare(-one.alignment.velocity(output, pair.x_fm, pair.t), eps - x0)
                errors[one.name].append(error)
                slopes[one.name].append(slope)
    return Finding(*decide(errors, slopes), errors, slopes, answers)


def _asked(alignment: FlowAlignment, pair: Interpolant) -> ModelInput:
    return ModelInput(alignment.to_diffusion(pair.x_fm, pair.t), alignment.timestep(pair.t))


def compare(found: Tensor, true: Tensor) -> tuple[float, float]:
    """Relative error ``|found - true| / |true|`` and slope ``<found, true> / <found, found>`` of tensors (B, *)."""
    tiny = torch.finfo(found.dtype).tiny
    error = (found - true).norm() / true.norm()
    slope = (found * true).sum() / found.square().sum().clamp(min=tiny)
    return float(error), float(slope)


def regress(output: Tensor, eps: Tensor, x0: Tensor) -> tuple[float, float]:
    """Least squares a and b of ``output = a eps + b x0``, all (B, *); NaN if the output or the basis allows none."""
    ee, ex, xx = ((one * other).sum().item() for one, other in ((eps, eps), (eps, x0), (x0, x0)))
    oe, ox = ((output * one).sum().item() for one in (eps, x0))
    determinant = ee * xx - ex * ex
    if not determinant > 0:
        return math.nan, math.nan
    return (oe * xx - ox * ex) / determinant, (ox * ee - oe * ex) / determinant


def decide(errors: Mapping[str, Sequence[float]], slopes: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    """Name of the candidate that a network is, "" if none can be named, and the reason, from figures by level."""
    worst = {name: max(values) if all(map(math.isfinite, values)) else math.inf for name, values in errors.items()}
    best, after = sorted(worst, key=lambda name: worst[name])[:2]
    error, other = worst[best], worst[after]
    gap, off = other**2 - error**2, max(abs(slope - 1) for slope in slopes[best])
    if math.isinf(error):
        return "", "the network returned NaN or infinite values"
    if error > MOST_ERROR:
        return "", f"the best reading, {best}, has a relative error of {error:.2f} (at most {MOST_ERROR:g} names it)"
    if off > MOST_SLOPE_OFF:
        return "", f"the best reading, {best}, is {off:.0%} off in size (at most {MOST_SLOPE_OFF:.0%} names it)"
    if gap < LEAST_GAP:
        return "", f"{best} and {after} fit almost alike, with squared errors {gap:.2f} apart (at least {LEAST_GAP:g})"
    return best, f"relative error {error:.2f} as {best}, {other:.2f} as the next best, {after}"
