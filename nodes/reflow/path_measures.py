"""How straight the sampling paths of a MODEL are, and the error of a few Euler steps along them.

The reference path is integrated in fine steps by Heun's method; the measures are defined in ``d2f_core.reflow``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import curvature, few_step_errors, flow_grid, follow, straightness
from .. import host
from ..network.cfg_velocity import CfgVelocity
from ..network.conditionings import first_entry, join
from .guidance import null_condition

STEP_COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class PathMeasures:
    """Means over all paths.

    Attributes:
        t_start: flow time at which the paths begin.
        straightness: mean squared difference between the velocity along a path and its chord.
        curvature: (t, root mean square of the acceleration) along the paths.
        errors: (NFE, root mean square distance from the end of the reference path) of Euler's method.
    """

    t_start: float
    straightness: float
    curvature: list[tuple[float, float]]
    errors: list[tuple[float, float]]


@dataclass(frozen=True)
class PathSettings:
    """Which paths are measured.

    Attributes:
        positive, negative: CONDITIONINGs; negative may be None if ``cfg`` is 1.
        cfg: scale of classifier-free guidance; 1 disables it.
        width, height: size of the images, in pixels.
        count: number of paths.
        steps: steps of the reference path.
        seed: seed of the noise.
    """

    positive: Any
    negative: Any
    cfg: float
    width: int
    height: int
    count: int
    steps: int
    seed: int


def measure(model: Any, settings: PathSettings, on_step: Callable[[int], None]) -> PathMeasures:
    """Measure the paths of a MODEL.

    Args:
        model: diffusion MODEL. One that is not converted is measured as the converter would convert it by default.
        settings: which paths.
        on_step: called with the number of finished steps of the reference path.

    Raises:
        ValueError: a conditioning is empty, or the model takes no images of this size.
    """
    sampling = host.sampling_of(model if host.is_converted(model) else host.convert(model))
    t_start = max(0.0, 1 - float(sampling.sigma_max))
    with host.training(model) as network, torch.no_grad():
        shape = host.latent_shape(model, settings.width, settings.height)
        velocity = _velocity(network, settings, shape)
        x = _initial_state(sampling, settings, shape).to(network.device)
        path = follow(velocity, x, flow_grid("uniform", settings.steps, t_start=t_start), "heun", on_step)
        times, acceleration = curvature(path)
        errors = few_step_errors(velocity, x, path.end, STEP_COUNTS, t_start)
        return PathMeasures(
            t_start,
            float(straightness(path).mean()),
            _points(times, acceleration),
            _points(torch.tensor(STEP_COUNTS), errors),
        )


def _velocity(network: host.TrainingNetwork, settings: PathSettings, shape: tuple[int, ...]) -> CfgVelocity:
    """Velocity (t, x) -> (count, C, h, w) under the first entry of each conditioning."""
    condition = network.condition([first_entry([settings.positive], "positive")], shape)
    null = null_condition(network, settings.negative, settings.cfg, shape)
    return CfgVelocity(network, network.alignment, join([condition] * settings.count), null, settings.cfg)


def _initial_state(sampling: Any, settings: PathSettings, shape: tuple[int, ...]) -> Tensor:
    """States in which the paths begin, noise scaled as the host's samplers scale it, (count, C, h, w)."""
    noise = torch.randn((settings.count, *shape), generator=torch.Generator().manual_seed(settings.seed))
    return sampling.noise_scaling(sampling.sigma_max.reshape(1), noise, torch.zeros_like(noise), True)


def _points(x: Tensor, values: Tensor) -> list[tuple[float, float]]:
    """Pairs of x (N,) and the mean over the batch of values (N, B)."""
    return list(zip(x.tolist(), values.mean(1).tolist()))
