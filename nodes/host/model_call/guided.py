"""A solver of ours inside the host's CFG guider, where everything on a MODEL and on its CONDITIONINGs acts."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ..conversion import as_flow
from ..model import NODE_NAME
from ..sampling import make_sampler

# (sigma, x (B, *)) -> x0 (B, *), with guidance.
Denoiser = Callable[[float, Tensor], Tensor]


def in_guider(
    model: Any,
    noise: Tensor,
    positive: Any,
    negative: Any,
    cfg: float,
    sigmas: Tensor,
    function: Callable[[Denoiser, Tensor], Tensor],
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> None:
    """Call ``function(denoise, x)`` as the sampler of a sampling run; raises the user's interrupt.

    Args:
        model: flow matching MODEL.
        noise: (B, C, h, w); x is what the model's own scaling makes of it at ``sigmas[0]``.
        positive, negative: CONDITIONINGs; negative may be None where ``needs_negative`` is false.
        cfg: guidance scale; 1 disables guidance.
        sigmas: s = 1 - t of the run as patches and ControlNets see it, descending, (N + 1,).
        function: gets the denoiser and the first state, returns the last state.
        dtype: type that the network computes in; None for the model's own.
        seed: for what nodes draw at random.
    """
    if dtype is not None:
        model = model.clone()
        model.set_model_compute_dtype(dtype)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive if negative is None else negative)
    guider.set_cfg(cfg)

    def sampler(denoiser: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **others: Any) -> Tensor:
        def denoise(sigma: float, x: Tensor) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return denoiser(x, x.new_full((len(x),), sigma, dtype=torch.float32), **extra_args)

        return function(denoise, x)

    empty = torch.zeros_like(noise)
    # Some nodes write into the noise.
    guider.sample(noise.clone(), empty, make_sampler(sampler), sigmas, disable_pbar=True, seed=seed)


def needs_negative(model: Any, cfg: float) -> bool:
    """Whether a sampling run asks for the negative prompt: guidance does, and so do some nodes at CFG 1."""
    return cfg != 1 or bool(model.model_options.get("disable_cfg1_optimization", False))


def as_teacher(model: Any, node: str = NODE_NAME) -> Any:
    """The MODEL as a flow matching model that starts at pure noise; one that is a flow matching model as it is."""
    return as_flow(model, "noise", node)


def to_samples(model: Any, latents: Tensor) -> Tensor:
    """Latents in a MODEL's own scale as a LATENT holds them, on the CPU."""
    return model.model.process_latent_out(latents).cpu()
