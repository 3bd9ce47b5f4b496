"""Names of layers in LoRA files: kohya's, for networks of the true shapes without weights."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from d2f_core.adapter import WidenedAdapter

SD_BLOCKS = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_checkpoint": False,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
SD1_SHAPE = {
    **SD_BLOCKS,
    "adm_in_channels": None,
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
    "context_dim": 768,
    "num_heads": 8,
}
SD2_SHAPE = {
    **{key: value for key, value in SD1_SHAPE.items() if key != "num_heads"},
    "use_linear_in_transformer": True,
    "context_dim": 1024,
    "num_head_channels": 64,
}
SDXL_SHAPE = {
    **SD_BLOCKS,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "channel_mult": [1, 2, 4],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
}
NAMES = {
    "SD15": (
        SD1_SHAPE,
        {
            "input_blocks.0.0": "lora_unet_conv_in",
            "time_embed.0": "lora_unet_time_embedding_linear_1",
            "input_blocks.1.0.in_layers.2": "lora_unet_down_blocks_0_resnets_0_conv1",
            "input_blocks.1.0.emb_layers.1": "lora_unet_down_blocks_0_resnets_0_time_emb_proj",
            "input_blocks.4.0.skip_connection": "lora_unet_down_blocks_1_resnets_0_conv_shortcut",
            "input_blocks.3.0.op": "lora_unet_down_blocks_0_downsamplers_0_conv",
            "input_blocks.1.1.proj_in": "lora_unet_down_blocks_0_attentions_0_proj_in",
            "input_blocks.1.1.transformer_blocks.0.attn1.to_q": (
                "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
            ),
            "middle_block.1.transformer_blocks.0.attn2.to_out.0": (
                "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0"
            ),
            "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj": (
                "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj"
            ),
            "output_blocks.2.1.conv": "lora_unet_up_blocks_0_upsamplers_0_conv",
            "out.2": "lora_unet_conv_out",
        },
    ),
    "SD20": (
        SD2_SHAPE,
        {
            "input_blocks.8.1.transformer_blocks.0.attn2.to_k": (
                "lora_unet_down_blocks_2_attentions_1_transformer_blocks_0_attn2_to_k"
            ),
        },
    ),
    "SDXL": (
        SDXL_SHAPE,
        {
            "input_blocks.0.0": "lora_unet_input_blocks_0_0",
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q": (
                "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
            ),
            "middle_block.1.transformer_blocks.9.ff.net.2": "lora_unet_middle_block_1_transformer_blocks_9_ff_net_2",
            "output_blocks.2.1.proj_out": "lora_unet_output_blocks_2_1_proj_out",
            "label_emb.0.0": "lora_unet_label_emb_0_0",
            "out.2": "lora_unet_out_2",
        },
    ),
}


@pytest.fixture(scope="module")
def files(pack):
    """The pack's `nodes.host.files`."""
    return importlib.import_module(f"{pack.__name__}.nodes.host.lora")


@pytest.fixture(scope="module")
def build_base(comfy):
    """`build_base(kind)` -> the host's model of that kind on the meta device."""
    import comfy.model_detection

    def build(kind):
        config = comfy.model_detection.model_config_from_unet_config({**NAMES[kind][0], "dtype": torch.float32})
        assert type(config).__name__ == kind
        config.set_inference_dtype(torch.float32, None)
        return config.get_model({}, device="meta")

    return build


@pytest.mark.parametrize("kind", list(NAMES))
def test_layers_have_kohyas_names(files, build_base, kind):
    import comfy.lora

    base, expected = build_base(kind), NAMES[kind][1]
    names = files.lora_names(SimpleNamespace(model=base))
    assert {path: names[path] for path in expected} == expected
    assert len(set(names.values())) == len(names)
    targets = comfy.lora.model_lora_keys_unet(base, {})
    assert all(targets[name] == f"diffusion_model.{path}.weight" for path, name in names.items())
    assert any("input_blocks" in name for name in names.values()) is (kind == "SDXL")


def test_a_layer_with_two_names_there_has_one_here(files, build_base, monkeypatch):
    """The host's table comes from a set of strings, whose order changes from process to process."""
    import comfy.utils

    base = SimpleNamespace(model=build_base("SD15"))
    theirs = {"conv_end.weight": "out.2.weight", **comfy.utils.unet_to_diffusers(base.model.model_config.unet_config)}
    found = set()
    for table in (theirs, dict(reversed(theirs.items()))):
        monkeypatch.setattr(comfy.utils, "unet_to_diffusers", lambda config, table=table: table)
        found.add(files.lora_names(base)["out.2"])
    assert len(found) == 1


@pytest.mark.parametrize("kind", list(NAMES))
def test_a_widened_first_layer_of_the_true_shape(files, host, build_base, kind):
    """On a doubled input it answers as before; the stock loader finds it by its name and adds its change exactly."""
    import comfy.lora
    import comfy.model_patcher
    import comfy.sd

    base, generator = build_base(kind), torch.Generator().manual_seed(1)
    layer = base.diffusion_model.input_blocks[0][0].to_empty(device="cpu")
    layer.weight.data.normal_(generator=generator)
    model = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
    adapter = WidenedAdapter(torch.nn.Conv2d(8, 320, 3, bias=False))
    adapter.diff.data.normal_(generator=generator)
    name = files.lora_names(model)["input_blocks.0.0"]
    lora = {f"{name}.{suffix}": tensor for suffix, tensor in adapter.file_tensors().items()}

    def patched(model):
        key = "diffusion_model.input_blocks.0.0.weight"
        return comfy.lora.calculate_weight(model.patches[key], layer.weight.clone(), key)

    untrained = patched(host.widen(model))
    x = torch.randn(1, 4, 6, 6, generator=generator)
    answers = [torch.conv2d(*pair) for pair in ((x, layer.weight), (torch.cat([x, x], 1), untrained))]
    assert untrained.shape == (320, 8, 3, 3)
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-5)
    loaded = host.widen(comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0])
    torch.testing.assert_close(patched(loaded), untrained + adapter.diff, rtol=0, atol=1e-6)


def test_diffusers_finds_every_layer_of_sdxl(files, build_base):
    """Its converter is given the network's shape, as the SDXL pipeline does."""
    diffusers = pytest.importorskip("diffusers")
    import comfy.utils

    base = build_base("SDXL")
    layers = {path: layer for path, layer in base.diffusion_model.named_modules() if hasattr(layer, "weight")}
    names = files.lora_names(SimpleNamespace(model=base))
    paths = [path for path in names if layers[path].weight.ndim > 1]
    tensors = {}
    for number, path in enumerate(paths):
        mark = torch.full((1, 1), float(number))
        tensors |= {f"{names[path]}.lora_down.weight": mark, f"{names[path]}.lora_up.weight": mark}
    shape = SimpleNamespace(layers_per_block=2)
    state, _ = diffusers.loaders.StableDiffusionXLLoraLoaderMixin.lora_state_dict(tensors, unet_config=shape)
    theirs = {paths[int(mark)]: key for key, mark in state.items() if ".down." in key}
    expected = comfy.utils.unet_to_diffusers(base.model_config.unet_config)
    for path, key in theirs.items():
        place = key.removeprefix("unet.").replace(".processor", "").replace("to_out_lora", "to_out.0_lora")
        place = place.removesuffix(".down.weight").removesuffix("_lora").removesuffix(".lora")
        assert expected[f"{place}.weight"] == f"{path}.weight"
    assert theirs.keys() == set(paths)
