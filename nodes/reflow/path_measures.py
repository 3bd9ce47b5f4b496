"""How straight the paths of a MODEL are, and what few steps on them miss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import curvature, few_step_errors, flow_grid, follow, straightness
from .. import host
from ..network.cfg_velocity import CfgVelocity
from ..network.conditionings import first_entry, join

COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class PathMeasures:
    """Means over the items.

    Attributes:
        t_start: flow time at which the paths begin.
        straightness: mean squared difference between the velocity and its chord.
        curvature: (t, root mean square of the acceleration) along the paths.
        errors: (NFE, root mean square distance to the end of the fine path) of Euler's method.
    """

    t_start: float
    straightness: float
    curvature: list[tuple[float, float]]
    errors: list[tuple[float, float]]


@dataclass(frozen=True)
class ModelInput:
    """What a model is measured on.

    Attributes:
        positive, negative: CONDITIONINGs; negative may be None.
        cfg: guidance against ``negative``; 1 for none.
        width, height: in pixels.
        count: items.
        steps: of the fine path, by Heun's method.
        seed: of the noise.
    """

    positive: Any
    negative: Any
    cfg: float
    width: int
    height: int
    count: int
    steps: int
    seed: int


def measure(model: Any, question: ModelInput, on_step: Callable[[int], None]) -> PathMeasures:
    """Follow the paths of a MODEL; one that is not converted is measured as the converter makes it by default.

    Args:
        model: diffusion MODEL, converted or not.
        question: what it is measured on.
        on_step: called with the steps done.
    """
    sampling = host.sampling_of(model if host.is_converted(model) else host.convert(model))
    t_start = max(0.0, 1 - float(sampling.sigma_max))
    with host.training(model) as network, torch.no_grad():
        shape = host.latent_shape(model, question.width, question.height)
        velocity = _velocity(network, question, shape)
        noise = torch.randn((question.count, *shape), generator=torch.Generator().manual_seed(question.seed))
        x = sampling.noise_scaling(sampling.sigma_max.reshape(1), noise, torch.zeros_like(noise), True).to(
            network.device
        )
        path = follow(velocity, x, flow_grid("uniform", question.steps, t_start=t_start), "heun", on_step)
        times, bent = curvature(path)
        errors = few_step_errors(velocity, x, path.end, COUNTS, t_start)
        return PathMeasures(
            t_start, float(straightness(path).mean()), _points(times, bent), _points(torch.tensor(COUNTS), errors)
        )


def _velocity(network: host.TrainingNetwork, question: ModelInput, shape: tuple[int, ...]) -> CfgVelocity:
    told = network.condition([first_entry([question.positive], "positive")], shape)
    guided = question.cfg != 1
    if guided and question.negative is None:
        raise ValueError(
            f"the guidance is {question.cfg:g} but nothing is connected to 'negative'; connect the conditioning of an "
            "empty prompt, or set it to 1"
        )
    null = network.condition([first_entry([question.negative], "negative")], shape) if guided else None
    return CfgVelocity(network, network.alignment, join([told] * question.count), null, question.cfg)


def _points(x: Tensor, values: Tensor) -> list[tuple[float, float]]:
    return list(zip(x.tolist(), values.mean(1).tolist()))
