"""What a network's output means: one row for each prediction type, and nowhere else a branch on it.

With ``x_dm = alpha x0 + sigma eps``, clean latent and noise are linear in the network's input and
output, [x0, eps] = M [x_dm, model_output]:

    eps:  x0  = (x_dm - sigma eps) / alpha          eps = model_output
    v:    x0  = alpha x_dm - sigma v                eps = sigma x_dm + alpha v
    x0:   x0  = model_output                        eps = (x_dm - alpha x0) / sigma

v is the one of Salimans and Ho (arXiv 2202.00512), ``v = alpha eps - sigma x0``. The same table says what a
network of each type is trained to return.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from .coordinate import Number


class Reading(NamedTuple):
    """Weights that read x0 and eps off a state and a model output; one number, or one an item.

    ``x0 = x0_state * state + x0_output * model_output``, and ``eps`` likewise.
    """

    x0_state: Number
    x0_output: Number
    eps_state: Number
    eps_output: Number


class Prediction(NamedTuple):
    """A prediction type: how its output is read, and what it is trained to be."""

    read: Callable[[Number, Number], Reading]
    """(alpha, sigma) -> Reading of ``x_dm`` and the model output."""
    target: Callable[[Tensor, Tensor, Number, Number], Tensor]
    """(x0, eps, alpha, sigma) -> the ideal output; alpha and sigma shaped to multiply x0."""


def _read_eps(alpha: Number, sigma: Number) -> Reading:
    return Reading(1 / alpha, -sigma / alpha, 0.0, 1.0)


def _read_v(alpha: Number, sigma: Number) -> Reading:
    return Reading(alpha, -sigma, sigma, alpha)


def _read_x0(alpha: Number, sigma: Number) -> Reading:
    return Reading(0.0, 1.0, 1 / sigma, -alpha / sigma)


PREDICTIONS: Mapping[str, Prediction] = MappingProxyType(
    {
        "eps": Prediction(_read_eps, lambda x0, eps, alpha, sigma: eps),
        "v": Prediction(_read_v, lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0),
        "x0": Prediction(_read_x0, lambda x0, eps, alpha, sigma: x0),
    }
)


def check_prediction(prediction: str) -> None:
    """Raise a ValueError that names the allowed prediction types unless ``prediction`` is one."""
    if prediction not in PREDICTIONS:
        raise ValueError(
            f"unknown prediction type {prediction!r}; allowed are {', '.join(map(repr, PREDICTIONS))}: "
            "use the one that the network was trained with"
        )
