"""Layers of the host whose weights are cast, dequantized or brought to the device when they run.

The host's own layers do the same, but autograd then keeps what they have made until the backward pass, and quantized
layers round their input, too. Here the product is that of the weights' values in the type of the computation, and
one layer's are there at a time.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ....d2f_core import Offload, can_run_on_demand, run_on_demand

# A layer of the host.
Layer = Any

_SCALES = ("pre_quant_scale", "scale_weight")
"""What some layers multiply their input or weight with; those stay as they are."""


def is_known(layer: nn.Module) -> bool:
    """Whether a layer is one of the host's, whose product or convolution is all there is to it."""
    if type(layer).__module__ != comfy.ops.__name__ or not can_run_on_demand(layer):
        return False
    weight = layer.weight
    is_plain = type(weight) in (nn.Parameter, Tensor) or is_traceable_wrapper_subclass(weight)
    return is_plain and not _has_scales(layer)


def has_plain_weight(layer: Layer) -> bool:
    """Whether the weight of a layer is one in a float type, and all that acts when the layer runs."""
    is_plain = type(layer.weight) in (nn.Parameter, Tensor) and layer.weight.is_floating_point()
    return is_plain and not _has_scales(layer) and not getattr(layer, "weight_function", ())


def _has_scales(layer: Layer) -> bool:
    return any(getattr(layer, name, None) is not None for name in _SCALES)


def run_layers_on_demand(network: nn.Module, dtype: torch.dtype, offload: Offload | None) -> None:
    """Let layers of a network of our own run on demand: those that cast; with ``offload`` all that are known.

    Args:
        network: the frozen copy.
        dtype: type that it computes in.
        offload: keeps the weights in the main memory; None leaves them where they are.
    """
    for layer in filter(is_known, network.modules()):
        if offload is not None:
            offload.keep(layer)
        if offload is not None or _casts(layer, dtype):
            run_on_demand(layer, partial(_weights, offload))
    if offload is not None:
        offload.watch(network)


def _casts(layer: nn.Module, dtype: torch.dtype) -> bool:
    return is_traceable_wrapper_subclass(layer.weight) or layer.weight.dtype != dtype


def _weights(offload: Offload | None, layer: Layer, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as the host's layer would use them; a cancel acts here, as it does there."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    weight = layer.weight if offload is None else offload.fetch(layer.weight)
    bias = layer.bias
    made = _in_type(weight, like, getattr(layer, "weight_function", ()))
    return made, None if bias is None else _in_type(bias, like, getattr(layer, "bias_function", ()))


def _in_type(kept: Tensor, like: Tensor, functions: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
    made = kept.to(like.device, like.dtype)
    made = made.dequantize() if is_traceable_wrapper_subclass(made) else made
    for function in functions:
        made = function(made)
    return made
