"""The host's samplers: sigmas, SAMPLER objects, a whole sampling run."""

import inspect
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

from .flow_sampling import FlowSampling
from .model import FIND_OUT, NODE_NAME, sampling_of
from .ve.levels import flow_levels

# Keys of an empty LATENT: pixels and frames per latent position, if its node sets them.
_RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def scheduler_names() -> list[str]:
    """Names of the host's schedulers."""
    return list(comfy.samplers.SCHEDULER_NAMES)


def stock_sigmas(model: Any, scheduler: str, steps: int) -> Tensor:
    """Sigmas of one of the host's schedulers for this MODEL, descending to 0, about (steps + 1,).

    On a converted model they are the noise levels of the diffusion model.
    """
    sampling = sampling_of(model)
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps).cpu()
    return flow_levels(sampling, sigmas)[0] if isinstance(sampling, FlowSampling) else sigmas


def make_sampler(function: Callable[..., Tensor]) -> Any:
    """A SAMPLER from ``(model, x, sigmas, extra_args, callback, disable) -> x``, which works in s."""
    sampler = comfy.samplers.KSAMPLER(function)
    sampler.integrates_the_flow = True
    return sampler


def flow_sampling_in_call(denoiser: Any) -> Any:
    """The ``model_sampling`` of the denoiser that a sampler function gets; it must be that of a flow model."""
    sampling = denoiser.inner_model.inner_model.model_sampling
    if not isinstance(sampling, comfy.model_sampling.CONST):
        raise ValueError(
            "the ODE sampler needs a flow matching model, but this is a diffusion model "
            f"({type(denoiser.inner_model.inner_model).__name__}); put '{NODE_NAME}' between the model loader and "
            f"the sampler, or ModelSamplingSD3 if the checkpoint is a flow model itself; {FIND_OUT}"
        )
    return sampling


def throw_if_interrupted() -> None:
    """Raise the host's interrupt if the user has pressed cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def sample(
    model: Any,
    latent: dict[str, Any],
    positive: Any,
    negative: Any,
    cfg: float,
    sampler: Any,
    sigmas: Tensor,
    seed: int,
) -> dict[str, Any]:
    """Sample a LATENT with the host's CFG guider, including its noise, masks, progress and previews."""
    out = dict(latent)
    out["samples"] = _fit_empty(model, out)
    noise = comfy.sample.prepare_noise(out["samples"], seed, latent.get("batch_index"))
    out["samples"] = comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        sampler,
        sigmas,
        positive,
        negative,
        out["samples"],
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return out


def _fit_empty(model: Any, latent: dict[str, Any]) -> Tensor:
    """Samples of a LATENT; empty ones are brought to the model's channels and size. Removes the keys used for that.

    As the host's own samplers do. ComfyUI 0.16.3 knows the first of the ratios alone.
    """
    fit = comfy.sample.fix_empty_latent_channels
    known = inspect.signature(fit).parameters
    ratios = {name: latent.pop(name) for name in _RATIOS if name in known and name in latent}
    return fit(model, latent["samples"], **ratios)
