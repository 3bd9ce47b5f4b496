"""A converted model as the diffusion model that it is: the same states and noise levels in other coordinates.

    x_ve = x_fm / t        sigma_ve = s / t        t = 1 - s = 1 / (1 + sigma_ve)

Most samplers, and most functions around classifier-free guidance, are written for x_ve and sigma_ve: for variance
exploding noise. In these coordinates they give on a converted model what they give on the diffusion model. x0 is the
same in both. At s = 1 sigma_ve is infinite; it ends at 1 / LEAST_DATA_WEIGHT, where noise outweighs any image.
"""

from collections.abc import Callable
from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

from ....d2f_core import per_item
from ..flow_sampling import LEAST_DATA_WEIGHT, FlowSampling


def to_ve(s: Tensor) -> Tensor:
    """``sigma_ve`` of flow sigmas s, any shape."""
    return s / (1 - s).clamp(min=LEAST_DATA_WEIGHT)


def from_ve(sigma_ve: Tensor) -> Tensor:
    """Flow sigmas s of ``sigma_ve``, any shape."""
    return sigma_ve / (1 + sigma_ve)


def state_to_ve(x_fm: Tensor, s: Tensor) -> Tensor:
    """``x_ve`` of a state (B, *) at s, () or (B,)."""
    return x_fm * per_item(1 + to_ve(s), x_fm)


def state_from_ve(x_ve: Tensor, sigma_ve: Tensor) -> Tensor:
    """``x_fm`` of a state (B, *) at ``sigma_ve``, () or (B,)."""
    return x_ve / per_item(1 + sigma_ve, x_ve)


class VeSampling(comfy.model_sampling.EPS):
    """A ``FlowSampling`` in the shape of the host's ``model_sampling`` of a diffusion model."""

    sigma_data = 1.0

    def __init__(self, flow: FlowSampling) -> None:
        self.flow = flow

    @property
    def sigmas(self) -> Tensor:
        """``sigma_ve`` of each timestep, ascending, shape (T,)."""
        return to_ve(self.flow.sigmas)

    @property
    def sigma_min(self) -> Tensor:
        """``sigma_ve`` of timestep 0, shape ()."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """``sigma_ve`` at which sampling starts, shape ()."""
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        """The network's fractional timestep, any shape."""
        return self.flow.timestep(from_ve(sigma))

    def sigma(self, timestep: Tensor) -> Tensor:
        """``sigma_ve`` of a timestep, any shape."""
        return to_ve(self.flow.sigma(timestep))

    def percent_to_sigma(self, percent: float) -> float:
        """``sigma_ve`` at that fraction of the timesteps."""
        return float(to_ve(torch.tensor(self.flow.percent_to_sigma(percent), dtype=torch.float64)))

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """The network's input for the state ``x_ve`` (B, *)."""
        return self.flow.calculate_input(from_ve(sigma), state_from_ve(noise, sigma))

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """x0 of the model output and the state ``x_ve``, both (B, *)."""
        return self.flow.calculate_denoised(from_ve(sigma), model_output, state_from_ve(model_input, sigma))


class StandIn:
    """An object of the host with some attributes replaced; the object itself is left as it is."""

    def __init__(self, target: Any, **own: Any) -> None:
        self.__dict__.update(own, target=target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["target"], name)


def ve_patcher(patcher: Any, sampling: VeSampling) -> StandIn:
    """A MODEL whose ``model_sampling`` is in VE coordinates."""

    def get_model_object(name: str) -> Any:
        return sampling if name == "model_sampling" else patcher.get_model_object(name)

    return StandIn(patcher, get_model_object=get_model_object)


def ve_model(base: Any) -> StandIn:
    """The model inside a converted MODEL, in VE coordinates; ``translate_batch`` lets the host evaluate it."""
    sampling = VeSampling(base.model_sampling)

    def apply_model(x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return base.apply_model(state_from_ve(x, t), from_ve(t), *args, **kwargs)

    patcher = ve_patcher(base.current_patcher, sampling)
    return StandIn(base, model_sampling=sampling, current_patcher=patcher, apply_model=apply_model)


def translate_batch(executor: Any, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, options: Any) -> Any:
    """Wrapper of the host's ``calc_cond_batch``: a question in VE coordinates is put to the model in its own."""
    if isinstance(model, StandIn):
        model, x_in, timestep = model.target, state_from_ve(x_in, timestep), from_ve(timestep)
    return executor(model, conds, x_in, timestep, options)


class VeDenoiser:
    """The host's denoiser ``(x, sigma) -> x0`` in VE coordinates, with what samplers look up through it.

    Args:
        denoiser: what the host gives a sampler's function.
        settle: gets the model options of a call, in which the sampler may have put CFG functions of its own, and
            returns those to use.
    """

    def __init__(self, denoiser: Any, settle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        guider = denoiser.inner_model
        model = ve_model(guider.inner_model)
        patcher = ve_patcher(guider.model_patcher, model.model_sampling)
        self.denoiser, self.settle = denoiser, settle
        self.inner_model = StandIn(guider, inner_model=model, model_patcher=patcher)

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        if "model_options" in kwargs:
            kwargs["model_options"] = self.settle(kwargs["model_options"])
        return self.denoiser(state_from_ve(x, sigma), from_ve(sigma), **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["denoiser"], name)
