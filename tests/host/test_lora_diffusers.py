"""Diffusers as an independent reader of our LoRA files: a UNet of the same weights gives the same outputs."""

import importlib

import pytest
import torch

from d2f_core.adapter import attached
from d2f_core.lora import AdapterSettings, make_adapters


@pytest.fixture(scope="module")
def diffusers():
    pytest.importorskip("peft")
    return pytest.importorskip("diffusers")


@pytest.fixture
def unet(diffusers, eps_model):
    """The small model's network in diffusers' own class."""
    import comfy.utils

    network = diffusers.UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,  # the number of heads, by diffusers' old name for it
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
    )
    names = comfy.utils.unet_to_diffusers(eps_model.model.model_config.unet_config)
    weights = eps_model.model.diffusion_model.state_dict()
    network.load_state_dict({theirs: weights[ours] for theirs, ours in names.items() if ours in weights})
    return network.eval()


@pytest.fixture
def ask():
    """`ask(network)` -> output for one batch; both classes take the same arguments."""
    generator = torch.Generator().manual_seed(2)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 16, generator=generator)
    return lambda network: network(x, torch.tensor([17.0, 801.0]), context)


@pytest.fixture
def save(pack, eps_model, tmp_path):
    """`save(targets, full_ends)` -> random adapters, and the file with them."""
    lora_file = importlib.import_module(f"{pack.__name__}.d2f_data.files.lora_file")
    files = importlib.import_module(f"{pack.__name__}.nodes.host.lora")

    def run(targets, full_ends=False):
        generator = torch.Generator().manual_seed(5)
        settings = AdapterSettings(targets, rank=3, alpha=1.5, full_ends=full_ends)
        adapters = make_adapters(eps_model.model.diffusion_model, settings, generator)
        for adapter in adapters.values():
            for parameter in adapter.parameters():
                parameter.data.normal_(0, 0.5 / max(1, parameter[0].numel()) ** 0.5, generator=generator)
        tensors = lora_file.lora_tensors(adapters, files.lora_names(eps_model))
        lora_file.save_lora(tmp_path / "x.safetensors", tensors, dtype="fp32")
        return adapters, tmp_path / "x.safetensors"

    return run


def load(diffusers, unet, path):
    """What a pipeline's load_lora_weights does with its UNet."""
    mixin = diffusers.loaders.StableDiffusionLoraLoaderMixin
    state, alphas = mixin.lora_state_dict(str(path.parent), weight_name=path.name)
    mixin.load_lora_into_unet(state, alphas, unet)


def test_diffusers_gives_the_outputs_of_the_adapters(diffusers, eps_model, unet, ask, save):
    network = eps_model.model.diffusion_model
    plain = ask(network)
    torch.testing.assert_close(ask(unet).sample, plain, rtol=1e-4, atol=1e-5)
    adapters, path = save("all")
    with torch.inference_mode(False), torch.no_grad():
        load(diffusers, unet, path)
    with attached(network, adapters):
        ours = ask(network)
    torch.testing.assert_close(ask(unet).sample, ours, rtol=1e-4, atol=1e-5)
    assert (ours - plain).abs().max() > 0.05


def test_diffusers_refuses_full_differences(diffusers, unet, save):
    """Its converter knows low-rank layers only; the help of 'Save LoRA (Diff2Flow)' says so."""
    _, path = save("attention", full_ends=True)
    with pytest.raises(ValueError, match=r"not been correctly renamed:\s+lora_unet_conv_in\.diff"):
        load(diffusers, unet, path)
