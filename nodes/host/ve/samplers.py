"""The host's samplers on a converted model, run in VE coordinates: they give what they give on the diffusion model.

A run that starts at a noise level of the diffusion model needs no more than a change of coordinates. From noisier ones,
up to pure noise at s = 1, where sigma_ve is infinite, the first step would be a huge one in sigma_ve: such a run stays
in s if its sampler is right there, and otherwise takes the first step by Euler's method in s,

    x_fm(s') = x0 + (s' / s) (x_fm(s) - x0)
"""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..flow_sampling import FlowSampling
from .coordinates import VeDenoiser, from_ve, state_from_ve, state_to_ve, to_ve
from .functions import cfg_functions_in_ve, looks_at_sampling

# Functions of samplers that are wrong in s for another reason than their noise: they end above 0 or scale the noise.
_WRONG_IN_S = {"dpm_fast_function", "dpm_adaptive_function", "sample_euler_pp", "sample_lcm_upscale"}


def place_sampler(sampler: Any, flow: FlowSampling, first: float) -> Any:
    """The SAMPLER to use for one from a node or the menu.

    Args:
        sampler: SAMPLER; it is not changed.
        flow: the converted model's sampling object.
        first: the flow sigma at which the run starts.
    """
    if not isinstance(sampler, comfy.samplers.KSAMPLER) or getattr(sampler, "integrates_the_flow", False):
        return sampler
    noisiest = 1 - flow.alignment.t_min
    if first > noisiest * (1 + 1e-5) and _is_right_in_s(sampler.sampler_function):
        return sampler
    placed = copy.copy(sampler)
    placed.sampler_function = _in_ve(sampler.sampler_function, noisiest)
    placed.extra_options = {name: _option(value) for name, value in sampler.extra_options.items()}
    return placed


def _is_right_in_s(function: Callable[..., Any]) -> bool:
    """Whether a sampler's function adds no noise, or asks the model what kind of noise to add."""
    adds_noise = "noise_sampler" in inspect.signature(function).parameters
    return getattr(function, "__name__", "") not in _WRONG_IN_S and (not adds_noise or looks_at_sampling(function))


def _option(value: Any) -> Any:
    """An option of a sampler, for sigma_ve: a function that holds a window of s was made for the converted model."""
    code = getattr(value, "__code__", None)
    cells = zip(code.co_freevars, value.__closure__ or ()) if code is not None else ()
    window = [cell.cell_contents for name, cell in cells if "sigma" in name]
    in_s = bool(window) and all(isinstance(end, float) and end <= 1 for end in window)
    return (lambda sigma: value(from_ve(sigma))) if in_s else value


def _in_ve(function: Callable[..., Tensor], noisiest: float) -> Callable[..., Tensor]:
    """A sampler's function that gets and returns states of the flow and runs in VE coordinates."""

    @functools.wraps(function)
    def run(model: Any, x: Tensor, sigmas: Tensor, **kwargs: Any) -> Tensor:
        if len(sigmas) > 1 and float(sigmas[0]) > noisiest * (1 + 1e-5):
            x, sigmas, kwargs = _first_step(model, x, sigmas, **kwargs)
        if len(sigmas) < 2:
            return x
        denoiser = VeDenoiser(model, cfg_functions_in_ve)
        if kwargs.get("callback") is not None:
            kwargs["callback"] = functools.partial(_report, kwargs["callback"])
        ended = function(denoiser, state_to_ve(x, sigmas[0]), to_ve(sigmas), **kwargs)
        return state_from_ve(ended, to_ve(sigmas[-1]))

    return run


def _report(callback: Callable[[dict[str, Any]], None], step: dict[str, Any]) -> None:
    """Tell a callback of the flow about a step in VE coordinates."""
    moved = dict(step)
    if "sigma" in step:  # not every sampler passes it
        moved |= {name: from_ve(torch.as_tensor(step[name])) for name in ("sigma", "sigma_hat") if name in step}
        moved["x"] = state_from_ve(step["x"], torch.as_tensor(step["sigma"]))
    callback(moved)


def _first_step(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callable[[dict[str, Any]], None] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Euler's step from the first of the sigmas; the state after it, the sigmas and arguments of the other steps."""
    x0 = model(x, sigmas[0] * x.new_ones(len(x)), **extra_args)

    def later(info: dict[str, Any]) -> None:
        if callback is not None:
            callback({**info, "i": info["i"] + 1})

    later({"x": x, "i": -1, "sigma": sigmas[0], "sigma_hat": sigmas[0], "denoised": x0})
    return torch.lerp(x0, x, sigmas[1] / sigmas[0]), sigmas[1:], {"extra_args": extra_args, "callback": later, **kwargs}
