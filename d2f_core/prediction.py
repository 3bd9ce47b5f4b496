"""What a network's output means: one row for each prediction type, and nowhere else a branch on it.

With ``x_dm = alpha x0 + sigma eps``, clean latent and noise are linear in the network's input and output:

    eps:  x0  = (x_dm - sigma eps) / alpha          eps = model_output
    v:    x0  = alpha x_dm - sigma v                eps = sigma x_dm + alpha v
    x0:   x0  = model_output                        eps = (x_dm / alpha - x0) / sigma_ve

v is the one of Salimans and Ho (arXiv 2202.00512), ``v = alpha eps - sigma x0``. As sigma goes to 0, the first two rows
go to x0 = x_dm and a finite eps. The third has no limit: below the smallest sigma_ve that the network was trained at,
its eps is divided by that one, and x0 = x_dm / alpha - sigma_ve eps follows from it. The same table says what a
network of each type is trained to return.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """Alpha and sigma that an output is read with, shaped to multiply latents; least sigma_ve of the training."""

    alpha: Tensor
    sigma: Tensor
    least_sigma_ve: float = 0.0


Formula = Callable[[Tensor, Tensor, Coefficients], Tensor]


class Prediction(NamedTuple):
    """A prediction type: (x_dm, output, coefficients) -> x0 and eps, (x0, eps, coefficients) -> the ideal output."""

    x0: Formula
    eps: Formula
    target: Formula


def _x0_of_eps(x_dm: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    return torch.addcmul(x_dm, c.sigma, output, value=-1) / c.alpha


def _x0_of_v(x_dm: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    return torch.addcmul(c.alpha * x_dm, c.sigma, output, value=-1)


def _eps_of_v(x_dm: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    return torch.addcmul(c.sigma * x_dm, c.alpha, output)


def _x0_of_x0(x_dm: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    sigma_ve = c.sigma / c.alpha
    return torch.lerp(output, x_dm / c.alpha, 1 - sigma_ve / sigma_ve.clamp(min=c.least_sigma_ve))


def _eps_of_x0(x_dm: Tensor, output: Tensor, c: Coefficients) -> Tensor:
    return (x_dm / c.alpha - output) / (c.sigma / c.alpha).clamp(min=c.least_sigma_ve)


PREDICTIONS: Mapping[str, Prediction] = MappingProxyType(
    {
        "eps": Prediction(_x0_of_eps, lambda x_dm, output, c: output, lambda x0, eps, c: eps),
        "v": Prediction(_x0_of_v, _eps_of_v, lambda x0, eps, c: c.alpha * eps - c.sigma * x0),
        "x0": Prediction(_x0_of_x0, _eps_of_x0, lambda x0, eps, c: x0),
    }
)
