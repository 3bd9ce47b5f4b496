"""A wrapper around every sampling of a converted model that reports what would silently give wrong results."""

import logging
from typing import Any

import torch
from torch import Tensor

from .flow_sampling import FlowSampling
from .model import NODE_NAME, sampling_of

LOGGER = logging.getLogger("diff2flow")

# Samplers and CFG patches of the host that assume variance exploding noise for every model:
# name of the sampler function, or of the class of the patch -> name that users see.
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


def guard_sampling(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Check the sampler, CFG patches and latents of a sampling run, then run it."""
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
    """Names of the sampler and CFG patches in use that give wrong results on flow models."""
    names = [getattr(getattr(sampler, "sampler_function", None), "__name__", "")]
    patches = [model_options.get("sampler_cfg_function"), *model_options.get("sampler_post_cfg_function", [])]
    names += [getattr(patch, "__qualname__", "").split(".")[0] for patch in patches]
    return [_VE_ARITHMETIC[name] for name in names if name in _VE_ARITHMETIC]


def _check_unit(noise: Tensor, latent: Tensor, sigmas: Tensor) -> None:
    """Refuse latents that AddNoise has already scaled by 1 - s if noise is off: they would be scaled twice.

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
