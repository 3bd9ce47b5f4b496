"""The network of a MODEL, ready for training: loaded, as a frozen copy, with its conditioning kwargs prepared.

Nothing of the host's is changed: hooks and recomputed blocks sit on module objects of our own over the host's weights.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.ldm.modules import attention
from torch import Tensor

from ...d2f_core import for_autograd, frozen_copy
from .image_condition import CALL_KEY, FIRST_CONV, sort_patches, widened
from .model import alignment_of

# Conditioning kwargs of the network, besides input and timestep: name -> tensor (B, ...).
Condition = Mapping[str, Tensor]

COMPUTE_DTYPES: Mapping[str, torch.dtype | None] = {
    "auto": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

# Attentions that have no backward pass.
_FORWARD_ONLY = ("attention_sage", "attention3_sage", "attention_flash")

# Attributes by which layers fetch their weights under the host's dynamic patcher.
_FETCHING = ("_v", "weight_lowvram_function", "bias_lowvram_function")


class TrainingNetwork:
    """``(network_input, timestep, condition) -> model_output`` for ``d2f_core.Trainer``.

    Attributes:
        module: frozen copy of the diffusion network, to whose layers adapters are attached.
        alignment: schedule and prediction type of the network.
        device, dtype: device and data type of the computation.
        channels: number of channels of the latents.
        widened: paths of the convolutions in ``module`` that are wider than the checkpoint's, for an image condition.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None, recompute: bool) -> None:
        base = model.model
        dynamic = getattr(model, "is_dynamic", lambda: False)()
        self.module = frozen_copy(base.diffusion_model, dtype, recompute, partial(_fetch, model) if dynamic else None)
        for layer in self.module.modules() if dynamic else ():
            for name in _FETCHING:
                layer.__dict__.pop(name, None)
        self.alignment = alignment_of(model)
        self.device = model.load_device
        self.dtype = dtype or base.get_dtype_inference()
        self.channels: int = base.latent_format.latent_channels
        self.widened: tuple[str, ...] = (FIRST_CONV,) if widened(model) else ()
        # A shallow copy with this MODEL's concat keys, whichever clone is loaded.
        self._base, self._options = copy.copy(base), _transformer_options(model)
        self._base.concat_keys = model.get_model_object("concat_keys")

    def __call__(self, network_input: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        kwargs = {name: value.to(self.device, self.dtype) for name, value in condition.items()}
        concat = kwargs.pop(CALL_KEY, None)
        x = network_input.to(self.dtype)
        output = self.module(
            x if concat is None else torch.cat([x, concat], dim=1),
            timestep.to(self.device, torch.float32),
            context=kwargs.pop("c_crossattn", None),
            control=None,
            transformer_options={**self._options, "cond_or_uncond": [0]},
            **kwargs,
        )
        return output.float()

    def latents(self, samples: Tensor) -> Tensor:
        """Samples of a LATENT in the model's own scale, on its device, float32."""
        return self._base.process_latent_in(for_autograd(samples).to(self.device, torch.float32))

    def samples(self, latents: Tensor) -> Tensor:
        """The inverse of ``latents``, on the CPU."""
        return self._base.process_latent_out(latents).cpu()

    def condition(self, conditioning: Any, shape: Sequence[int]) -> Condition:
        """Conditioning kwargs of a CONDITIONING's first entry, for latents (C, h, w): tensors (1, ...) on the CPU.

        That of a widened network has "c_concat", zeros if the entry holds no latent for it.
        """
        noise = torch.zeros(1, *shape)
        cond = comfy.sampler_helpers.convert_cond(conditioning[:1])
        encoded = comfy.samplers.encode_model_conds(
            self._base.extra_conds, cond, noise, noise.device, "positive", latent_image=noise
        )
        conds = encoded[0]["model_conds"]
        tensors = {name: conds[name].process_cond(batch_size=1, area=None).cond for name in sorted(conds)}
        return {name: for_autograd(tensor).cpu() for name, tensor in tensors.items()}


@contextmanager
def training(model: Any, dtype: str = "auto", recompute: bool = False) -> Iterator[TrainingNetwork]:
    """A MODEL ready for training, outside of inference mode; the host is restored afterwards, also after an error.

    Args:
        model: diffusion MODEL, converted or not.
        dtype: compute type, one of ``COMPUTE_DTYPES``; "auto" takes the model's own.
        recompute: recompute blocks in the backward pass, to save memory.
    """
    management = comfy.model_management
    if widened(model):
        sort_patches(model)
    if getattr(model, "is_dynamic", lambda: False)():
        management.free_memory(1.2 * model.model_size() + management.minimum_inference_memory(), model.load_device)
    else:
        management.load_models_gpu([model], force_full_load=True)
    before = getattr(management, "in_training", None)
    with torch.inference_mode(False):
        try:
            management.in_training = True
            yield TrainingNetwork(model, COMPUTE_DTYPES[dtype], recompute)
        finally:
            if before is None:
                del management.in_training
            else:
                management.in_training = before


def _fetch(model: Any, path: str) -> Tensor:
    """A weight under the dynamic patcher, which loads it only when its layer runs: patched, on the load device.

    Until then it is of the file's type; that of the model is noted beside it. To quantized weights and to those of
    8 bits nothing can be added, so that patched ones are of the type that the layers compute in.
    """
    key, network = f"diffusion_model.{path}", model.model.diffusion_model
    # Small layers are patched when any clone is loaded; their original weights are kept here.
    plain = model.backup[key].weight if key in model.backup else network.get_parameter(path)
    owner, _, name = path.rpartition(".")
    dtype = getattr(network.get_submodule(owner), f"{name}_comfy_model_dtype", None) or plain.dtype
    if key not in model.patches:
        return plain.to(model.load_device, dtype, copy=True)
    exact = plain.to(model.load_device, torch.float32, copy=True).dequantize()
    patched = comfy.lora.calculate_weight(model.patches[key], exact, key)
    return patched.to(dtype if dtype.itemsize > 1 else model.model.get_dtype_inference())


def _transformer_options(model: Any) -> dict[str, Any]:
    options = dict(model.model_options.get("transformer_options", {}))
    # An attention that a node has set may have no backward pass, either.
    if "optimized_attention_override" in options or attention.optimized_attention.__name__ in _FORWARD_ONLY:
        options["optimized_attention_override"] = lambda chosen, *args, **kwargs: attention.attention_pytorch(
            *args, **kwargs
        )
    return options
