"""Initial weights of the networks that are trained from scratch; the host's layers skip this."""

import math

import torch
from torch import nn


def init_weights(model: nn.Module, gen: torch.Generator) -> None:
    """Initialise in place, since the host's layers skip it: PyTorch's uniform fan-in for layers, N(0, 0.02)
    for embeddings, ones and zeros for norms, and zeros for the last layer of each residual branch."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Embedding):
            weight.data.normal_(0, 0.02, generator=gen)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            weight.data.fill_(1)
            module.bias.data.zero_()
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            bound = 1 / math.sqrt(weight[0].numel())
            weight.data.uniform_(-bound, bound, generator=gen)
            if module.bias is not None:
                module.bias.data.uniform_(-bound, bound, generator=gen)


def zero_residual_outputs(unet: nn.Module) -> None:
    """Set the last layer of residual branches and transformers and the last convolution to zero, in place."""
    for name, module in unet.named_modules():
        if name.endswith(("out_layers.3", "proj_out", "out.2")):
            for parameter in module.parameters():
                parameter.data.zero_()
