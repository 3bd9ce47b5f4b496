"""VAE and text encoders under two names each: diffusers' and transformers', and those of the original checkpoints.

AutoencoderKL    decoder.up_blocks.0.resnets.1.conv_shortcut    decoder.up.3.block.1.nin_shortcut
                 decoder.mid_block.attentions.0.to_q            decoder.mid.attn_1.q, as a 1 x 1 convolution
CLIP             text_model.encoder.layers.4.mlp.fc1            transformer.resblocks.4.mlp.c_fc    (OpenCLIP)
                 q_proj, k_proj and v_proj                      attn.in_proj, one below the other
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_ENDS = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"}

_CLIP = (
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("text_model.final_layer_norm.", "ln_final."),
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    (".self_attn.", ".attn."),
)


def vae_in_original(state: Mapping[str, Tensor], levels: int) -> Iterator[tuple[str, Tensor]]:
    """(name in the original, tensor) of the weights of an ``AutoencoderKL`` with so many resolutions."""
    for name, tensor in state.items():
        renamed = _vae_name(name, levels)
        linear = ".attn_1." in renamed and tensor.ndim == 2
        yield renamed, tensor[..., None, None] if linear else tensor


def _vae_name(name: str, levels: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    up = lambda place: f"up.{levels - 1 - int(place[1])}."  # noqa: E731
    name = re.sub(r"up_blocks\.(\d+)\.", up, name)
    name = re.sub(r"(up\.\d+)\.resnets\.(\d+)", r"\1.block.\2", name)
    name = re.sub(r"(up\.\d+)\.upsamplers\.0", r"\1.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda place: f"mid.block_{int(place[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        front, _, layer = name.partition("mid_block.attentions.0.")
        path, _, kind = layer.rpartition(".")
        return f"{front}mid.attn_1.{_VAE_ATTENTION[path]}.{kind}"
    for theirs, ours in _VAE_ENDS.items():
        name = name.replace(f"{theirs}.", f"{ours}.")
    return name


def clip_in_openclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' CLIP text model in OpenCLIP's form; its projection, if it has one, transposed."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".q_proj." in name:
            parts = [state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            path, _, kind = name.rpartition(".q_proj.")
            found[f"{_clip_name(path + '.')}in_proj_{kind}"] = torch.cat(parts)
        elif name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif ".k_proj." not in name and ".v_proj." not in name:
            found[_clip_name(name)] = tensor
    return found


def _clip_name(name: str) -> str:
    for theirs, ours in _CLIP:
        name = name.replace(theirs, ours)
    return name
