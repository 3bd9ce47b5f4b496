"""Small CLIPs of the host's own classes with random weights: clip_l of SD1.x, clip_h of SD2.x, both of SDXL."""

from types import SimpleNamespace
from typing import Any

import torch

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}


def make(kind: str, width: int = 16) -> Any:
    """A CLIP; its encoders have three layers of ``width``."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.text_encoders.sd2_clip

    clip, tokenizer = {
        "l": (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer),
        "h": (comfy.text_encoders.sd2_clip.SD2ClipModel, comfy.text_encoders.sd2_clip.SD2Tokenizer),
        "lg": (comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer),
    }[kind]
    sizes = {**SIZES, "hidden_size": width}
    options = {f"clip_{letter}_model_config": sizes for letter in "lgh"}
    cpu = torch.device("cpu")
    options |= {"load_device": cpu, "offload_device": cpu, "dtype": torch.float32}
    found = comfy.sd.CLIP(SimpleNamespace(params={}, clip=clip, tokenizer=tokenizer), model_options=options)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in sorted(found.cond_stage_model.named_parameters()):
        values = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(1 + 0.1 * values if "norm" in name and name.endswith("weight") else 0.3 * values)
    return found
