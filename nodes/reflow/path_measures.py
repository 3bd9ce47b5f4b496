"""How straight the sampling paths of a MODEL are, and the error of a few Euler steps along them.

The reference path is integrated in fine steps by Heun's method; the measures are defined in ``d2f_core.reflow``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import curvature, few_step_errors, flow_grid, follow, straightness, window_straightness
from .. import host
from ..network.caption_checks import check_captions
from ..network.conditionings import some_entries
from .guidance import GuidedVelocity

NODE = "Trajectory Report (Diff2Flow)"
STEP_COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class PathMeasures:
    """Means over all paths.

    Attributes:
        t_start: flow time at which the paths begin.
        straightness: mean squared difference between the velocity along a path and its chord.
        curvature: (t, root mean square of the acceleration) along the paths.
        errors: (NFE, root mean square distance from the end of the reference path) of Euler's method.
        windows: in which the model was made straight, 1 if it was not or as a whole.
        within: mean straightness within them.
    """

    t_start: float
    straightness: float
    curvature: list[tuple[float, float]]
    errors: list[tuple[float, float]]
    windows: int
    within: float


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
        model: MODEL. A diffusion model is measured as the converter would convert it by default.
        settings: which paths.
        on_step: called with the number of finished steps of the reference path.

    Raises:
        ValueError: a conditioning is empty, or the model takes no images of this size.
    """
    flow = host.as_flow(model, node=NODE)
    t_start = max(0.0, 1 - float(host.sampling_of(flow).sigma_max))
    shape = host.latent_shape(model, settings.width, settings.height)
    _check(settings, flow)
    noise = torch.randn((settings.count, *shape), generator=torch.Generator().manual_seed(settings.seed))
    times = flow_grid("uniform", settings.steps, t_start=t_start)
    found, windows = list[PathMeasures](), host.own_windows(model)

    def follow_path(denoise: Any, x: Tensor) -> Tensor:
        velocity = GuidedVelocity(denoise)
        path = follow(velocity, x, times, "heun", on_step)
        errors = few_step_errors(velocity, x, path.end, STEP_COUNTS, t_start)
        straight, bends = float(straightness(path).mean()), _points(*curvature(path))
        within = float(window_straightness(path, windows).mean())
        few = _points(torch.tensor(STEP_COUNTS), errors)
        found.append(PathMeasures(t_start, straight, bends, few, windows, within))
        return path.end

    sigmas = (1 - times).float()
    host.in_guider(
        flow, noise, settings.positive, settings.negative, settings.cfg, sigmas, follow_path, seed=settings.seed
    )
    return found[0]


def _check(settings: PathSettings, model: Any) -> None:
    """Raise ValueError for a conditioning without a text, or of another text encoder, if it is used."""
    used = [("positive", settings.positive)]
    if host.needs_negative(model, settings.cfg):
        used.append(("negative", settings.negative))
    for name, conditioning in used:
        check_captions(some_entries([[entry] for entry in conditioning], name), model.model.diffusion_model, name)


def _points(x: Tensor, values: Tensor) -> list[tuple[float, float]]:
    """Pairs of x (N,) and the mean over the batch of values (N, B)."""
    return list(zip(x.tolist(), values.mean(1).tolist()))
