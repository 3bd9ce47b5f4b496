"""What a network's output means: one row for each prediction type, and nowhere else a branch on it.

A diffusion network is shown ``x = alpha x0 + sigma eps``, of unit variance, a flow network the state of the flow,
``x = t x0 + s eps``. Clean latent and noise are linear in the network's input and output:

    eps:       x0 = (x - sigma eps) / alpha        eps = output
    v:         x0 = alpha x - sigma output         eps = sigma x + alpha output
    edm:       x0 = alpha x + sigma output         eps = sigma x - alpha output
    x0:        x0 = output                         eps = (x / alpha - x0) / sigma_ve
    flow:      x0 = x - s output                   eps = x + t output
    velocity:  x0 = x + s output                   eps = x - t output

v is the one of Salimans and Ho (arXiv 2202.00512), ``v = alpha eps - sigma x0``; that of Karras et al. (EDM, arXiv
2206.00364) has the opposite sign. Native flow networks return ``eps - x0``, networks of naive flow matching
``x0 - eps``. As sigma goes to 0, all rows but one go to x0 = x and a finite eps. The row x0 has no limit: below the
smallest sigma_ve that the network was trained at, its eps is divided by that one, and x0 = x / alpha - sigma_ve eps
follows from it. The same table says what a network of each type is trained to return.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """Weights of x0 and eps in the network's input, shaped to multiply latents.

    Where the network's data has another deviation than 1, x0 stands for x0 / sigma_data.
    """

    alpha: Tensor
    sigma: Tensor
    sigma_data: float = 1.0
    """By which x0 was divided; the clean latent that a network returns was not."""
    least_sigma_ve: float = 0.0
    """Least sigma / alpha of the training."""


Formula = Callable[[Tensor, Tensor, Coefficients], Tensor]


class Prediction(NamedTuple):
    """A prediction type.

    Attributes:
        x0: (input, output, coefficients) -> clean latent.
        velocity: (x0, input, output, coefficients) -> ``x0 - eps``; x0 may be in other units than eps.
        target: (x0, eps, coefficients) -> the ideal output.
        is_flow: the network takes the state of the flow itself, and its output is a velocity at any t.
    """

    x0: Formula
    velocity: Callable[[Tensor, Tensor, Tensor, Coefficients], Tensor]
    target: Formula
    is_flow: bool = False


def _x0_of_eps(x: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    return torch.addcmul(x, c.sigma, output, value=-1) / c.alpha


def _x0_of_v(x: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    return torch.addcmul(c.alpha * x, c.sigma, output, value=-1)


def _velocity_of_v(x0: Tensor, x: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    return x0 - torch.addcmul(c.sigma * x, c.alpha, output)


def _x0_of_x0(x: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    sigma_ve = c.sigma / c.alpha
    return torch.lerp(output / c.sigma_data, x / c.alpha, 1 - sigma_ve / sigma_ve.clamp(min=c.least_sigma_ve))


def _velocity_of_x0(x0: Tensor, x: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    eps = (x / c.alpha - output / c.sigma_data) / (c.sigma / c.alpha).clamp(min=c.least_sigma_ve)
    return x0 - eps


def _x0_of_flow(x: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    return torch.addcmul(x, c.sigma, output, value=-1)


def _negated(row: Prediction) -> Prediction:
    """The prediction type whose network returns the opposite."""
    return Prediction(
        lambda x, output, c: row.x0(x, -output, c),
        lambda x0, x, output, c: row.velocity(x0, x, -output, c),
        lambda x0, eps, c: -row.target(x0, eps, c),
        row.is_flow,
    )


_V = Prediction(_x0_of_v, _velocity_of_v, lambda x0, eps, c: c.alpha * eps - c.sigma * x0)
_FLOW = Prediction(_x0_of_flow, lambda x0, x, output, c: -output, lambda x0, eps, c: eps - x0, is_flow=True)

PREDICTIONS: Mapping[str, Prediction] = MappingProxyType(
    {
        "eps": Prediction(_x0_of_eps, lambda x0, x, output, c: x0 - output, lambda x0, eps, c: eps),
        "v": _V,
        "x0": Prediction(_x0_of_x0, _velocity_of_x0, lambda x0, eps, c: c.sigma_data * x0),
        "edm": _negated(_V),
        "flow": _FLOW,
        "velocity": _negated(_FLOW),
    }
)
