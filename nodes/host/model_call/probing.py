"""Single calls of a MODEL's network as the host's sampler makes them, with an input and a timestep of our choosing.

Everything on the MODEL and on its CONDITIONING acts, except for functions of guidance: they do arithmetic on what the
host believes the answer to be, which is what is in question.
"""

from collections.abc import Callable
from typing import Any

import comfy.model_sampling
import comfy.patcher_extension
import torch
from torch import Tensor

from ....d2f_core.loss import ModelInput
from ..conversion import GUARD_KEY
from ..model import sampling_of
from .guided import in_guider

# (flow sigma s, input (B, *) and timestep (B,) of one value) -> the network's answer (B, *), float32
NetworkCall = Callable[[float, ModelInput], Tensor]

_GUIDANCE = (
    "sampler_cfg_function",
    "sampler_calc_cond_batch_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "disable_cfg1_optimization",
)
_KINDS = comfy.patcher_extension.WrappersMP
# Rows of a probe, so that noise is drawn often enough.
_LEAST_ROWS = 4


class ProbeSampling(torch.nn.Module):
    """``model_sampling`` that hands input and timestep to the network as they are, and its answer back.

    Whatever else a node asks of it comes from the MODEL's own.
    """

    def __init__(self, sampling: Any) -> None:
        super().__init__()
        self.__dict__["live"] = sampling  # no submodule: the dynamic patcher keeps buffers by their path
        self.given = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["live"], name)

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """The network's input itself."""
        return noise

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep of the call, for each item."""
        return torch.full_like(sigma, self.given, dtype=torch.float32)

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The network's answer itself."""
        return model_output


def probe_network(
    model: Any, positive: Any, shape: torch.Size, levels: tuple[float, ...], run: Callable[[NetworkCall], None]
) -> None:
    """Call ``run(call)`` as the sampler of a sampling run; raises the user's interrupt.

    Args:
        model: MODEL of any kind.
        positive: CONDITIONING.
        shape: of the latents, (B, C, h, w).
        levels: flow sigmas s that will be asked about.
        run: gets the function that calls the network.
    """
    probed, live = model.clone(), sampling_of(model)
    sampling = ProbeSampling(live)
    probed.add_object_patch("model_sampling", sampling)
    for name in _GUIDANCE:
        probed.model_options.pop(name, None)
    for kind in (_KINDS.OUTER_SAMPLE, _KINDS.CALC_COND_BATCH):  # of the conversion: it would look for itself
        probed.remove_wrappers_with_key(kind, GUARD_KEY)
    ascending = sorted(levels, reverse=True)
    sigmas = torch.tensor([_sigma(live, s) for s in ascending] + [0.0])

    def solve(denoise: Any, x: Tensor) -> Tensor:
        def call(s: float, asked: ModelInput) -> Tensor:
            sampling.given = float(asked.timestep.flatten()[0])
            return denoise(_sigma(live, s), asked.network_input.to(x.device, x.dtype))

        run(call)
        return x

    in_guider(probed, torch.zeros(shape), positive, None, 1.0, sigmas, solve)


def _sigma(sampling: Any, s: float) -> float:
    """A level as the MODEL's own sampler counts it: s on a flow matching model, sigma_ve on a diffusion model."""
    return s if isinstance(sampling, comfy.model_sampling.CONST) else s / (1 - s)


def probe_latents(model: Any, samples: Tensor) -> Tensor:
    """Samples of a LATENT in the MODEL's own scale for a probe, float32 on the CPU, repeated to four rows or more.

    Raises:
        ValueError: they are not finite, have other channels than the model's, or are all the same number.
    """
    channels = model.get_model_object("latent_format").latent_channels
    if samples.ndim < 3 or samples.shape[1] != channels:
        raise ValueError(
            f"the latents have shape {tuple(samples.shape)}, but this model takes {channels} channels; encode images "
            "with the checkpoint's own VAE"
        )
    x0 = model.model.process_latent_in(samples.float().cpu())
    if not bool(torch.isfinite(x0).all()):
        raise ValueError(
            "the latents hold NaN or infinite values; encode the images again, with --fp32-vae or --bf16-vae"
        )
    if float(x0.std()) < 1e-3:
        raise ValueError(
            "the latents are empty (all the same number), and tell nothing of a network; connect latents of real "
            "images (Load Image and VAE Encode), like those that the model makes"
        )
    return x0.repeat(-(-_LEAST_ROWS // len(x0)), *(1,) * (x0.ndim - 1))
