"""ComfyUI's internals, all in one place: what differs between host versions differs here.

Nothing here changes what the host shares: a conversion lives in a clone's object patches and goes with it.
"""

import logging
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ..d2f_core import FlowAlignment, NoiseSchedule
from .flow_sampling import FlowSampling

LOGGER = logging.getLogger("diff2flow")
GUARD_KEY = "diff2flow"
NODE_NAME = "Convert to Flow Matching"

# The class that defines what a model's output means -> prediction type of d2f_core.
_PREDICTION_OWNERS = {
    comfy.model_sampling.EPS: "eps",
    comfy.model_sampling.V_PREDICTION: "v",
    comfy.model_sampling.X0: "x0",
}

# Samplers and CFG patches of the host that do variance exploding arithmetic whatever the model is:
# name of the sampler function, or of the class that made the patch -> name that users know.
_VE_ARITHMETIC = {
    "sample_ddpm": "ddpm",
    "sample_res_multistep_ancestral": "res_multistep_ancestral",
    "sample_res_multistep_ancestral_cfg_pp": "res_multistep_ancestral_cfg_pp",
    "sample_euler_pp": "SamplerEulerCFG++",
    "sample_lcm_upscale": "SamplerLCMUpscale",
    "RescaleCFG": "RescaleCFG",
    "EpsilonScaling": "Epsilon Scaling",
    "SelfAttentionGuidance": "Self-Attention Guidance",
}


class ComfyFlowSampling(FlowSampling, comfy.model_sampling.CONST):
    """``FlowSampling`` that the host recognises as a flow model; all methods are FlowSampling's."""


# --- MODEL: read, convert -------------------------------------------------------------------------


def sampling_of(model: Any) -> Any:
    """The ``model_sampling`` in force for this MODEL (``model.model.model_sampling`` may be a clone's)."""
    return model.get_model_object("model_sampling")


def is_converted(model: Any) -> bool:
    """Whether this MODEL came out of the converter."""
    return isinstance(sampling_of(model), FlowSampling)


def is_flow(model: Any) -> bool:
    """Whether this MODEL is a flow matching model, converted or native."""
    return isinstance(sampling_of(model), comfy.model_sampling.CONST)


def read_alignment(model: Any, prediction: str | None = None) -> FlowAlignment:
    """Schedule and prediction type of a diffusion MODEL, from its live ``model_sampling``.

    Args:
        model: MODEL with an EPS, V_PREDICTION or X0 network over a discrete schedule.
        prediction: overrides what the model says its network returns.

    Raises:
        ValueError: names the model and why it cannot be converted.
    """
    sampling = sampling_of(model)
    name = type(model.model).__name__
    if isinstance(sampling, FlowSampling):
        raise ValueError(f"this model ({name}) went through '{NODE_NAME}' before; remove the second conversion")
    if isinstance(sampling, comfy.model_sampling.CONST):
        raise ValueError(
            f"{name} is a flow matching model as it is; '{NODE_NAME}' takes diffusion models (SD1.5, SD2.1, "
            "SDXL and their fine-tunes): leave the node out"
        )
    schedule_owner = _owner(sampling, "timestep")
    if schedule_owner is not comfy.model_sampling.ModelSamplingDiscrete or getattr(sampling, "sigma_data", 1.0) != 1:
        raise ValueError(
            f"{name} has the schedule {schedule_owner.__name__}, which is not one of discrete timesteps; "
            f"'{NODE_NAME}' takes eps- and v-prediction models with a discrete schedule (SD1.5, SD2.1, SDXL)"
        )
    input_owner = _owner(sampling, "calculate_input")
    if input_owner is not comfy.model_sampling.EPS:
        raise ValueError(
            f"{name} has the sampling type {input_owner.__name__}, whose network does not take the scaled sample of a "
            f"diffusion; '{NODE_NAME}' takes eps- and v-prediction models (SD1.5, SD2.1, SDXL)"
        )
    return FlowAlignment(NoiseSchedule.from_sigmas(sampling.sigmas), prediction or _prediction(sampling, name))


def convert(model: Any, start: str = "t_min", shift: float = 1.0, prediction: str | None = None) -> Any:
    """A clone of a diffusion MODEL that the host samples as a flow matching model."""
    alignment = read_alignment(model, prediction)
    zsnr = bool(getattr(sampling_of(model), "zsnr", False))
    converted = model.clone()
    converted.add_object_patch("model_sampling", ComfyFlowSampling(alignment, start, shift, zsnr))
    converted.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, GUARD_KEY, guard_sampling)
    return converted


def _owner(sampling: Any, method: str) -> type:
    """The class that defines a method of ``sampling``: what it is, whatever it derives from."""
    return next((cls for cls in type(sampling).__mro__ if method in vars(cls)), type(sampling))


def _prediction(sampling: Any, name: str) -> str:
    owner = _owner(sampling, "calculate_denoised")
    if owner not in _PREDICTION_OWNERS:
        known = ", ".join(cls.__name__ for cls in _PREDICTION_OWNERS)
        raise ValueError(
            f"{name} has the sampling type {owner.__name__}; '{NODE_NAME}' knows {known}. Remove the ModelSampling "
            "node before it, or set 'prediction' to what the network was trained with"
        )
    return _PREDICTION_OWNERS[owner]


# --- Sampling: guard, levels, run -----------------------------------------------------------------


def guard_sampling(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Wrapper around every sampling of a converted model: says what would silently go wrong."""
    guider, (noise, latent, sampler, sigmas) = executor.class_obj, args[:4]
    sampling = sampling_of(guider.model_patcher)
    if not isinstance(sampling, FlowSampling):
        raise ValueError(
            f"a ModelSampling node after '{NODE_NAME}' replaced the conversion (the model now samples as "
            f"{type(sampling).__mro__[1].__name__}); put that node before '{NODE_NAME}', or remove it"
        )
    for culprit in _ve_arithmetic(sampler, guider.model_options):
        LOGGER.warning(
            "%s computes as if noise were variance exploding and is wrong on flow matching models; leave it "
            "out for a converted model",
            culprit,
        )
    _check_unit(noise, guider.model_patcher.model.process_latent_in(latent), sigmas)
    return executor(*args, **kwargs)


def _ve_arithmetic(sampler: Any, model_options: dict[str, Any]) -> list[str]:
    """Names of the sampler and CFG patches in use that are wrong on flow models."""
    names = [getattr(getattr(sampler, "sampler_function", None), "__name__", "")]
    patches = [model_options.get("sampler_cfg_function"), *model_options.get("sampler_post_cfg_function", [])]
    names += [getattr(patch, "__qualname__", "").split(".")[0] for patch in patches]
    return [_VE_ARITHMETIC[name] for name in names if name in _VE_ARITHMETIC]


def _check_unit(noise: Tensor, latent: Tensor, sigmas: Tensor) -> None:
    """Refuse latents that AddNoise has scaled by 1 - s when noise is off: they would be scaled twice.

    A noisy latent outside of the sampler is x_fm / (1 - s), so its standard deviation is at least
    s / (1 - s); AddNoise on a flow model returns x_fm itself. The latent is in the model's own scale.
    """
    s = float(sigmas[0])
    if not 0.5 < s < 1 or getattr(noise, "is_nested", False) or torch.count_nonzero(noise) > 0:
        return
    if torch.count_nonzero(latent) > 0 and float(latent.std()) < 0.7 * s / (1 - s):
        raise ValueError(
            f"sampling starts at s = {s:.3f} with noise switched off, but the latent has too little noise for it: "
            "AddNoise before a sampler without noise is scaled twice on flow models. Remove AddNoise and let the "
            "sampler add the noise"
        )


def scheduler_names() -> list[str]:
    """Names of the host's schedulers."""
    return list(comfy.samplers.SCHEDULER_NAMES)


def stock_levels(model: Any, scheduler: str, steps: int) -> Tensor:
    """Levels of one of the host's schedulers for this MODEL, descending to 0, about (steps + 1,)."""
    return comfy.samplers.calculate_sigmas(sampling_of(model), scheduler, steps).cpu()


def make_sampler(function: Callable[..., Tensor]) -> Any:
    """A SAMPLER from ``(model, x, sigmas, extra_args, callback, disable) -> x``."""
    return comfy.samplers.KSAMPLER(function)


def flow_sampling_in_call(denoiser: Any) -> Any:
    """The ``model_sampling`` behind the denoiser that a sampler function is given; it must be a flow's."""
    sampling = denoiser.inner_model.inner_model.model_sampling
    if not isinstance(sampling, comfy.model_sampling.CONST):
        raise ValueError(
            "the ODE sampler needs a flow matching model, but this is a diffusion model "
            f"({type(denoiser.inner_model.inner_model).__name__}); put '{NODE_NAME}' between the model loader and "
            "the sampler"
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
    """Sample a LATENT with the host's CFG guider: its noise for this seed, masks, progress and previews."""
    out = dict(latent)
    out["samples"] = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
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
