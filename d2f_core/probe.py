"""What a network returns, found by asking it about mixtures whose noise is known.

A latent x0 and noise eps are mixed at a few middle levels, the network is asked once in each kind of coordinates, and
its answer is read as every candidate reads it, always as the same quantity, u = eps - x0 (minus the velocity):

    x_fm = s eps + (1 - s) x0        u = eps - x0        u_c = -velocity_c(output, x_fm, t)        for each candidate c

A trained network returns the mean of its target given x_fm. Read rightly, u_c is therefore E[u | x_fm]: its error is
the deviation that is left of u given x_fm, and that error is orthogonal to u_c. Read wrongly, a bias is added to it:

    error_c^2 = |u_c - u|^2 / |u|^2 = rest^2 + bias_c^2        slope_c = <u_c, u> / <u_c, u_c> = 1 for the right one

The rest is a property of the latents and the network, and may be large; the bias is not, so two candidates are told apart
by the difference of their squared errors. The network is named after the candidate with the least error at its worst level if

    error <= MOST_ERROR, at every level        it explains much of u, so latents and conditioning are what it knows
    |slope - 1| <= MOST_SLOPE_OFF              it is as sure of itself as it should be: no other scale of latents
    next error^2 - error^2 >= LEAST_GAP        no other candidate explains the answer nearly as well

and otherwise the probe cannot tell. The third number to look at is the regression of the answer itself on noise and
latent, ``output = a eps + b x0``: (1, 0) for an ideal eps network, (alpha, -sigma) for v, (0, 1) for x0, (1, -1) for flow.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .loss import Interpolant, ModelInput
from .velocity import FlowAlignment

LEVELS = (0.3, 0.5, 0.7)
"""Flow sigmas s that are probed: at high noise all networks look alike, at low noise eps is hard to see."""

MOST_ERROR, MOST_SLOPE_OFF, LEAST_GAP = 0.7, 0.1, 0.08


class Candidate(NamedTuple):
    """What a network might be.

    Attributes:
        name: of the reading, such as "eps".
        coordinates: name of how the network is asked; candidates that share it are read from the same answers.
        alignment: maps between the flow and the network, in both directions.
    """

    name: str
    coordinates: str
    alignment: FlowAlignment


# (name of the coordinates, s, network input and timestep) -> the network's answer (B, *)
Network = Callable[[str, float, ModelInput], Tensor]


@dataclass(frozen=True)
class Finding:
    """What a probe has found, by level.

    Attributes:
        name: of the candidate that the network is; "" if the probe cannot tell.
        reason: why, one sentence with the figures.
        errors, slopes: name of the candidate -> relative error and slope at each level.
        answers: name of the coordinates -> (a, b) of ``output = a eps + b x0`` at each level.
    """

    name: str
    reason: str
    errors: Mapping[str, Sequence[float]]
    slopes: Mapping[str, Sequence[float]]
    answers: Mapping[str, Sequence[tuple[float, float]]]


@torch.no_grad()
def probe(network: Network, candidates: Sequence[Candidate], x0: Tensor, seed: int) -> Finding:
    """Ask the network at each level in each kind of coordinates, and compare the candidates.

    Args:
        network: called ``len(LEVELS)`` times for each kind of coordinates.
        candidates: at least two.
        x0: clean latents (B, *) in the network's own scale, float32; four or more of real images.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(x0.shape, generator=generator).to(x0.device) for _ in LEVELS]
    errors, slopes = ({one.name: list[float]() for one in candidates} for _ in range(2))
    answers: dict[str, list[tuple[float, float]]] = {}
    for coordinates in dict.fromkeys(one.coordinates for one in candidates):
        readers = [one for one in candidates if one.coordinates == coordinates]
        for s, eps in zip(LEVELS, noise):
            pair = Interpolant(x0, eps, torch.full((len(x0),), 1 - s, dtype=torch.float64))
            output = network(coordinates, s, _asked(readers[0].alignment, pair)).to(x0.device, torch.float32)
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
    error = (found - true).norm() / true.norm()
    slope = (found * true).sum() / found.square().sum().clamp(min=torch.finfo(found.dtype).tiny)
    return float(error), float(slope)


def regress(output: Tensor, eps: Tensor, x0: Tensor) -> tuple[float, float]:
    """Least squares a and b of ``output = a eps + b x0``, all (B, *)."""
    basis = torch.stack([eps.flatten(), x0.flatten()], dim=1)
    gram, right = basis.T @ basis, basis.T @ output.flatten()
    a, b = torch.linalg.lstsq(gram.double().cpu(), right.double().cpu()[:, None]).solution.flatten().tolist()
    return a, b


def decide(errors: Mapping[str, Sequence[float]], slopes: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    """Name of the candidate that a network is, "" if none can be named, and the reason, from figures by level."""
    worst = {name: max(values) if all(map(math.isfinite, values)) else math.inf for name, values in errors.items()}
    best, after = sorted(worst, key=lambda name: worst[name])[:2]
    error, other = worst[best], worst[after]
    off = max((abs(slope - 1) for slope in slopes[best]), default=math.inf)
    gap = other**2 - error**2
    if not math.isfinite(error):
        return "", "the network returned NaN or infinite values"
    if not error <= MOST_ERROR:
        return "", f"the best reading, '{best}', has a relative error of {error:.2f}; at most {MOST_ERROR:g} names it"
    if not off <= MOST_SLOPE_OFF:
        return (
            "",
            f"read as '{best}', which fits best, the answer is {off:.0%} too large or too small; at most {MOST_SLOPE_OFF:.0%} names it",
        )
    if not gap >= LEAST_GAP:
        return (
            "",
            f"'{best}' fits hardly better than '{after}': their squared errors differ by {gap:.2f}, not by {LEAST_GAP:g}",
        )
    return best, f"relative error of at most {error:.2f}, the next is '{after}' with {other:.2f}"
