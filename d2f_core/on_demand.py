"""Frozen layers whose weights are made when the layer runs, and made again for the backward pass.

    y = W x + b        dL/dx = W' dL/dy        W made of what is kept: quantized, in 8 bits, or on another device

Autograd keeps what the backward pass needs. Of such layers that would be W, in the type and on the device of the
computation: at the end of a forward pass, a copy of the whole network. Here a layer keeps nothing, and one W at a time
is alive. The layers are frozen, so that there is no other gradient; it is that of autograd.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from .adapter import Layer, conv_options, is_conv, is_linear, operate

# (layer, like) -> weight and bias of the layer, of the device and the type of `like`.
MakeWeights = Callable[[Layer, Tensor], tuple[Tensor, Tensor | None]]


def can_run_on_demand(layer: Layer) -> bool:
    """Whether all that a layer does is one product or convolution with its weight."""
    if is_conv(layer):
        is_plain = getattr(layer, "padding_mode", "zeros") == "zeros" and not isinstance(layer.padding, str)
        return is_plain and "forward" not in vars(layer)
    return is_linear(layer) and getattr(layer, "weight", None) is not None and "forward" not in vars(layer)


def run_on_demand(layer: Layer, make: MakeWeights) -> None:
    """Let a layer of a network of our own run with the weights that ``make`` makes; its hooks stay what they are.

    Args:
        layer: one that ``can_run_on_demand``, frozen.
        make: called in each forward and each backward pass.
    """
    alive = weakref.ref(layer)  # the layer keeps the function, so the function must not keep the layer

    def forward(x: Tensor) -> Tensor:
        return _OnDemand.apply(x, alive(), make)

    layer.forward = forward
    setattr(layer, _MAKE, make)


_MAKE = "_weights_on_demand"


def is_on_demand(layer: Layer) -> bool:
    """Whether a layer makes its weights when it runs."""
    return _MAKE in vars(layer)


def weight_of(layer: Layer, like: Tensor) -> Tensor:
    """The weight that a layer computes with, of the device and the type of ``like``."""
    return vars(layer)[_MAKE](layer, like)[0] if is_on_demand(layer) else layer.weight.to(like)


def product(layer: Layer, x: Tensor) -> Tensor:
    """W x: what a layer makes of an input, without its bias."""
    if not is_on_demand(layer):
        return operate(x, layer.weight.to(x.dtype), None, conv_options(layer))
    make: MakeWeights = vars(layer)[_MAKE]
    return _OnDemand.apply(x, layer, lambda layer, like: (make(layer, like)[0], None))


class _OnDemand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, make: MakeWeights) -> Tensor:
        ctx.layer, ctx.make, ctx.shape = layer, make, x.shape
        return operate(x, *make(layer, x), conv_options(layer))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, _ = ctx.make(ctx.layer, gradient)
        conv = conv_options(ctx.layer)
        if conv is not None:
            return conv2d_input(ctx.shape, weight, gradient, **conv), None, None
        return (gradient.flatten(0, -2) @ weight).view(ctx.shape), None, None
