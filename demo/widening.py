"""The exact embedding of the narrow autoencoder of `tiny_vae` into the host's TAESD, 64 channels wide.

A convolution padded with zero weights and zero biases keeps the extra channels at 0, ReLU maps 0 to 0,
and an identity skip adds 0, so the zero-padded narrow network computes the same function as before.
"""

import torch
from torch import Tensor

WIDE = 64


def widen(state_dict: dict[str, Tensor], wide: int = WIDE) -> dict[str, Tensor]:
    """Zero-pad a narrow state dict to width `wide`, in float32, and add the host's VAE scale 1 and shift 0."""
    out = {}
    for key, value in state_dict.items():
        is_input = key == "taesd_encoder.0.weight"
        is_latent_in = key == "taesd_decoder.1.weight"
        is_output = key.rsplit(".", 1)[0] in ("taesd_encoder.14", "taesd_decoder.19")
        rows = value.shape[0] if is_output else wide
        shape = [rows, *value.shape[1:]]
        if value.dim() == 4 and not (is_input or is_latent_in):
            shape[1] = wide
        out[key] = torch.zeros(shape)
        out[key][tuple(slice(n) for n in value.shape)] = value.float()
    out["vae_scale"], out["vae_shift"] = torch.tensor(1.0), torch.tensor(0.0)
    return out
