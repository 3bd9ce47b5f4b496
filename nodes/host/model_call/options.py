"""``transformer_options`` of one call of the network, complete as the host's sampler fills them."""

import uuid
from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import torch
from comfy.ldm.modules import attention
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ..model import alignment_of, is_flow, sampling_of
from .patches import changes_calls, merged_calls

# Attentions that have no backward pass.
_FORWARD_ONLY = ("attention_sage", "attention3_sage", "attention_flash")


class CallOptions:
    """Makes the options of a call.

    Attributes:
        change_calls: whether patches and wrappers act inside a call; the host asks them about one sigma per call.
        wrapper: the MODEL's wrapper around calls (``model_function_wrapper``), or None.
    """

    def __init__(self, model: Any) -> None:
        options = comfy.model_patcher.create_model_options_clone(model.model_options)
        inner = options.get("transformer_options", {})
        for kind in ("wrappers", "callbacks"):
            inner[kind] = merged_calls(model, kind)
        inner["patches"] = {
            name: [_differentiable(patch) for patch in patches] for name, patches in inner.get("patches", {}).items()
        }
        self._inner = _with_backward(inner)
        self.change_calls, self.wrapper = changes_calls(model), options.get("model_function_wrapper")
        sampling = sampling_of(model)
        self.sigmas = torch.cat([sampling.sigmas.detach().cpu().float().flip(0), torch.zeros(1)])
        self._roles = (uuid.uuid4(), uuid.uuid4())

    def of_call(self, sigma: Tensor, role: int) -> dict[str, Any]:
        """The options of a call at sigma (B,), for a positive (0) or a negative (1) prompt."""
        return {
            **self._inner,
            "sigmas": sigma,
            "sample_sigmas": self.sigmas.to(sigma.device),
            "cond_or_uncond": [role],
            "uuids": [self._roles[role]],
        }


def sigma_of(model: Any) -> Callable[[Tensor], Tensor]:
    """Timestep (B,) -> the sigma (B,) at which the MODEL's sampler would call its network there, float32."""
    sampling = sampling_of(model)
    if is_flow(model):  # its own sigma() is that of schedulers, which may be shifted
        alignment = alignment_of(model)
        return lambda timestep: (1 - alignment.flow_time(timestep)).float()
    return lambda timestep: sampling.sigma(timestep.float()).float()


def _differentiable(patch: Callable[..., Any]) -> Callable[..., Any]:
    """A patch that may write into what it was given or has made: what its backward pass needs is kept as a copy."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with saved_tensors_hooks(_kept, lambda tensor: tensor):
            return patch(*args, **kwargs)

    return call


def _kept(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, torch.nn.Parameter) else tensor.clone()


def _with_backward(options: dict[str, Any]) -> dict[str, Any]:
    """Options with an attention that has a backward pass; one that a node has set may not have one, either."""
    if "optimized_attention_override" in options or attention.optimized_attention.__name__ in _FORWARD_ONLY:
        options["optimized_attention_override"] = lambda chosen, *args, **kwargs: attention.attention_pytorch(
            *args, **kwargs
        )
    return options
