"""The eps network of a MODEL as networks that return something else, by algebra on its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.patcher_extension
from torch import Tensor

Output = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of the network's input x, its eps and sigma_ve = sigma / alpha, both (B, *) but the last, (B, 1, 1, 1)."""


def as_v(model: Any) -> Any:
    """A clone of an eps-prediction MODEL whose network returns v = alpha eps - sigma x0 = eps / alpha - sigma_ve x."""
    return returning(model, lambda x, eps, sigma_ve: (1 + sigma_ve**2).sqrt() * eps - sigma_ve * x)


def as_x0(model: Any) -> Any:
    """A clone of an eps-prediction MODEL whose network returns x0 = x / alpha - sigma_ve eps."""
    return returning(model, lambda x, eps, sigma_ve: (1 + sigma_ve**2).sqrt() * x - sigma_ve * eps)


def returning(model: Any, output: Output) -> Any:
    """A clone of an eps-prediction MODEL whose network returns another output."""
    sampling, clone = model.get_model_object("model_sampling"), model.clone()

    def wrapper(executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sigma_ve = sampling.sigma(timesteps).view(-1, 1, 1, 1)
        return output(x, executor(x, timesteps, *args, **kwargs), sigma_ve)

    clone.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, wrapper)
    return clone
