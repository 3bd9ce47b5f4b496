"""Over the API: Euler in flow time is stock Euler between the same noise levels."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from devtools.client import Client
from devtools.prompts import Prompt

ROWS = (999, 940, 870, 800, 700, 600, 500, 400, 300, 200, 100, 30, 0)


def sigma_ve() -> torch.Tensor:
    """Levels of Stable Diffusion's schedule at ROWS, and 0."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[list(ROWS)]
    return torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1, dtype=torch.float64)])


def sampling(text: str, levels: torch.Tensor, convert: bool, prefix: str) -> Prompt:
    """Stock Euler on the demo model at explicit levels; the latents are saved."""
    wires = {name: [name, 0] for name in ("positive", "negative", "sampler", "sigmas", "latent_image")}
    wires["model"] = ["convert" if convert else "load", 0]
    nodes = {
        "load": ("D2FDemoCheckpoint", {}),
        "convert": ("D2FConvert", {"model": ["load", 0], "start": "t_min", "shift": 1.0, "prediction": "auto"}),
        "positive": ("CLIPTextEncode", {"clip": ["load", 1], "text": text}),
        "negative": ("CLIPTextEncode", {"clip": ["load", 1], "text": ""}),
        "latent_image": ("EmptyLatentImage", {"width": 96, "height": 96, "batch_size": 2}),
        "sigmas": ("ManualSigmas", {"sigmas": ", ".join(f"{float(level):.9f}" for level in levels)}),
        "sampler": ("KSamplerSelect", {"sampler_name": "euler"}),
        "sample": ("SamplerCustom", wires | {"add_noise": True, "noise_seed": 42, "cfg": 3.0}),
        "save": ("SaveLatent", {"samples": ["sample", 0], "filename_prefix": prefix}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def latents(server: Client, prompt: Prompt) -> torch.Tensor:
    (saved,) = server.run(prompt, seconds=300).outputs["save"]["latents"]
    return load_file(server.base / "output" / saved["subfolder"] / saved["filename"])["latent_tensor"]


@pytest.mark.slow
def test_euler_at_the_same_levels_gives_the_same_latents_in_any_order(server: Client):
    """Unconverted at `sigma_ve = (1 - t) / t`, converted at `s = 1 - t`; each model always the same to the bit.

    The words are the same but for spaces, so that the server samples each time instead of remembering.
    """
    ve = sigma_ve()
    levels = {False: ve, True: ve / (1 + ve)}
    first: dict[bool, torch.Tensor] = {}
    for turn, convert in enumerate([False, True, False, True, True, False]):
        text = "a large red sphere on the left" + " " * turn
        found = latents(server, sampling(text, levels[convert], convert, f"latents/turn{turn}"))
        assert torch.equal(found, first.setdefault(convert, found)), f"turn {turn}"
    stock, converted = first[False], first[True]
    assert stock.std() > 0.1
    assert (stock - converted).abs().max() < 1e-4 * (stock.max() - stock.min())
