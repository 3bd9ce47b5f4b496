"""Weights of the loss: factors on the squared error that an objective compares.

    |velocity error|^2 = |eps error|^2 / t^2 = |x0 error|^2 / (1 - t)^2 = |v error|^2 / (t^2 + (1 - t)^2)

so ``eps``, ``x0`` and ``v`` make the loss of that prediction out of a velocity loss.

The published weights of the signal to noise ratio, SNR = (t / s)^2 with s = 1 - t, are losses w |x0 error|^2, and as
|velocity error|^2 = |x0 error|^2 / s^2, factors s^2 w on the velocity error, finite at both ends:

    weight          w                          s^2 w                             on the eps error, s^2 w / t^2
    min_snr         min(SNR, gamma)            min(t^2, gamma s^2)               min(1, gamma / SNR)
    soft_min_snr    SNR gamma / (SNR + gamma)  gamma t^2 s^2 / (t^2 + gamma s^2) gamma / (SNR + gamma)
    debiased        sqrt(SNR)                  t s                               1 / sqrt(SNR)
    p2              SNR / (1 + SNR)^gamma      t^2 (s^2 / (t^2 + s^2))^gamma     1 / (1 + SNR)^gamma

(arXiv 2303.09556, 2401.11605, 2310.08442, 2204.00227.) Where another error is compared they are converted to it, so
they are the same loss for every objective and prediction.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor


class Weight(NamedTuple):
    """A factor on the squared error.

    Attributes:
        factor: (t (B,), gamma) -> factor (B,).
        gamma: its parameter where none is given; None if it has no parameter.
        of_velocity: it is a factor on the velocity error, to be converted where another error is compared.
    """

    factor: Callable[[Tensor, float], Tensor]
    gamma: float | None = None
    of_velocity: bool = False


WEIGHTS: Mapping[str, Weight] = MappingProxyType(
    {
        "none": Weight(lambda t, gamma: torch.ones_like(t)),
        "eps": Weight(lambda t, gamma: t**2),
        "x0": Weight(lambda t, gamma: (1 - t) ** 2),
        "v": Weight(lambda t, gamma: t**2 + (1 - t) ** 2),
        "min_snr": Weight(lambda t, gamma: torch.minimum(t**2, gamma * (1 - t) ** 2), 5.0, True),
        "soft_min_snr": Weight(lambda t, gamma: gamma * (t * (1 - t)) ** 2 / (t**2 + gamma * (1 - t) ** 2), 5.0, True),
        "debiased": Weight(lambda t, gamma: t * (1 - t), None, True),
        "p2": Weight(lambda t, gamma: t**2 * ((1 - t) ** 2 / (t**2 + (1 - t) ** 2)) ** gamma, 1.0, True),
    }
)
"""Name -> weight; see the module's head."""
