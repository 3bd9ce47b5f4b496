"""SIGMAS for flow matching models: s from the model's start down to 0."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import flow_grid
from .. import host
from ..widgets import STOCK_GRID

MOST_LEVELS = 1_000_000
"""As many as the widgets of steps and denoise can plan."""


def flow_sigmas(model: Any, grid: Mapping[str, Any], steps: int, denoise: float = 1.0) -> Tensor:
    """Sigmas s for a flow matching MODEL, float32, descending to 0, shape (steps + 1,).

    Args:
        model: converted or native flow MODEL; its ``sigma_max`` is where the sigmas start.
        grid: value of ``widgets.grid_input``.
        steps: steps that will be taken.
        denoise: in [0, 1]; below 1 the sigmas are the last ``steps`` of ``steps / denoise``, and 0 gives none.

    Raises:
        ValueError: the model is not a flow matching model, or ``denoise`` is out of range or plans too many levels.
    """
    if not host.is_flow(model):
        raise ValueError(
            f"flow sigmas need a flow matching model, but this is a diffusion model ({type(model.model).__name__}); "
            f"put '{host.NODE_NAME}' before this node, or ModelSamplingSD3 if the checkpoint is a flow model itself; "
            f"{host.FIND_OUT}"
        )
    if not 0 <= denoise <= 1:
        raise ValueError(f"denoise is {denoise}; allowed are 0 to 1")
    if denoise == 0:
        return torch.zeros(0)
    if steps > denoise * MOST_LEVELS:
        raise ValueError(
            f"denoise is {denoise:g} with {steps} steps, which are the last of {steps / denoise:.3g} noise levels; for "
            f"these steps it must be at least {steps / MOST_LEVELS:g}, or 0 for no step at all"
        )
    total = int(steps / denoise) if denoise < 1 else steps
    settings = dict(grid)
    name = settings.pop("grid")
    if name == STOCK_GRID:
        sigmas = host.stock_sigmas(model, settings["scheduler"], total)
    else:
        # A grid of t from t_start to 1 is, in s, one from 0 to 1 times s_start.
        sigmas = (min(float(host.sampling_of(model).sigma_max), 1.0) * (1 - flow_grid(name, total, **settings))).float()
    return sigmas[-(steps + 1) :]
