"""The image condition on real weights, under the host's dynamic patcher, and on what it is not for."""

import dataclasses
import importlib

import pytest
import torch

from d2f_core.adapter import WidenedAdapter
from diff2flow_kit.d2f_data.fingerprints import schedule_fingerprint

KEY = "diffusion_model.input_blocks.0.0.weight"
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 8,
    "context_in_dim": 8,
    "hidden_size": 64,
    "mlp_ratio": 1.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "txt_ids_dims": [],
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
}
SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "depth": 1,
    "input_size": None,
    "pos_embed_max_size": 8,
    "num_patches": 64,
    "pos_embed_scaling_factor": None,
    "adm_in_channels": 8,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 8, "out_features": 64}},
}


@pytest.fixture
def empty(comfy):
    """`empty(config)` -> MODEL of the host's class for that network, without weights."""
    import comfy.model_detection
    import comfy.model_patcher

    def build(config):
        found = comfy.model_detection.model_config_from_unet_config({**config, "dtype": torch.float32})
        found.set_inference_dtype(torch.float32, None)
        base = found.get_model({}, device="meta")
        return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))

    return build


@pytest.fixture
def image_latent():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def paint(host, node, conditioning, table_levels):
    """`paint(model, image_latent)` -> latents of a short run under guidance, with an image condition or without."""
    import comfy.samplers

    with_condition = host.with_condition

    def run(model, image_latent=None):
        conditionings = conditioning
        if image_latent is not None:
            conditionings = [with_condition(one, image_latent) for one in conditioning]
        sampler, levels = comfy.samplers.ksampler("euler"), table_levels(model, 3)
        empty = {"samples": torch.zeros(2, 4, 8, 8)}
        return host.sample(model, empty, *conditionings, 3.0, sampler, levels, 42)["samples"]

    return run


@pytest.fixture
def lora():
    """Tensors of a file with a trained first convolution."""
    generator = torch.Generator().manual_seed(4)
    adapter = WidenedAdapter(torch.nn.Conv2d(8, 32, 3, padding=1))
    for parameter in adapter.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return {f"lora_unet_conv_in.{name}": tensor for name, tensor in adapter.file_tensors().items()}


def patched(model):
    """The first convolution's weight as the host would make it for a MODEL."""
    import comfy.lora

    (weight, _), *patches = model.get_key_patches(KEY)[KEY]
    return comfy.lora.calculate_weight(patches, weight.clone(), KEY)


def apart(one, two):
    """Largest difference, relative to the range."""
    return float((one - two).abs().max() / (one.max() - one.min()))


# --- Weights ---------------------------------------------------------------------------------------


def test_the_demo_model_answers_a_doubled_input_as_before(host, pack, image_latent):
    model, clip, _ = importlib.import_module(f"{pack.__name__}.demo.networks").load_demo_checkpoint()
    text = clip.encode_from_tokens_scheduled(clip.tokenize("a red sphere"))
    answers = []
    for one in (model, host.widen(model)):
        with host.training(one) as network, torch.no_grad():
            kwargs = dict(network.condition(text, (4, 12, 12)))
            x = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(1))
            assert ("c_concat" in kwargs) is bool(network.widened)
            kwargs |= {"c_concat": x} if network.widened else {}
            answers.append(network(x, torch.tensor([300.0]), kwargs))
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_of_half_precision_weights_are_exact(build, host, dtype):
    model = build("EPS", dtype=dtype)
    weight = model.model.diffusion_model.input_blocks[0][0].weight
    with host.training(host.widen(model)) as network:
        wide = network.module.input_blocks[0][0].weight
    assert wide.dtype == weight.dtype and torch.equal(wide, torch.cat([weight, weight], 1) / 2)


def test_a_merge_after_the_node_counts_as_before_it(build, host, stock):
    merge = stock("model_merging", "ModelMergeSimple")().merge
    one, two = build("EPS"), build("EPS")
    two.model.diffusion_model.input_blocks[0][0].weight.data += 0.1
    before = host.widen(merge(one, two, 0.25)[0])
    for after in (merge(host.widen(one), two, 0.25)[0], merge(host.widen(one), host.widen(two), 0.25)[0]):
        halves = []
        for model in (before, after):
            with host.training(model) as network:
                wide = network.module.input_blocks[0][0].weight
                halves.append(wide[:, :4] + wide[:, 4:])
        torch.testing.assert_close(*halves, rtol=1e-5, atol=1e-6)


# --- The patchers of the host -------------------------------------------------------------------------


def stock_load(model, lora, strength=1.0):
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]


@pytest.mark.parametrize("order", ["pwpw", "wpwp", "ppww", "wwpp"])
def test_under_the_dynamic_patcher_clones_take_turns(build, dynamic, host, paint, image_latent, order):
    plain = build()
    alone = {"p": paint(plain), "w": paint(host.widen(plain), image_latent)}
    model = dynamic()
    models = {"p": (model, None), "w": (host.widen(model), image_latent)}
    assert models["w"][0].is_dynamic()
    for name in order:
        assert apart(alone[name], paint(*models[name])) < 1e-6


@pytest.mark.parametrize("order", ["lora first", "condition first"])
def test_under_the_dynamic_patcher_a_lora_is_as_under_the_plain_one(
    build, dynamic, host, paint, image_latent, lora, order
):
    def load(model):
        return host.widen(stock_load(model, lora)) if order == "lora first" else stock_load(host.widen(model), lora)

    expected = paint(host.widen(stock_load(build(), lora)), image_latent)
    model = load(dynamic())
    assert apart(expected, paint(model, image_latent)) < 1e-5
    with host.training(model) as network:
        wide = network.module.input_blocks[0][0].weight
    torch.testing.assert_close(wide, patched(model), rtol=1e-6, atol=1e-7)
    assert apart(expected, paint(host.widen(dynamic()), image_latent)) > 1e-3


@pytest.mark.parametrize("kind", ["plain", "dynamic"])
def test_a_network_in_training_has_the_condition_of_its_model(
    build, dynamic, host, paint, image_latent, conditioning, kind
):
    """Whichever clone was loaded last; zeros stand for a condition that is given later."""
    model = build() if kind == "plain" else dynamic()
    models = {True: host.widen(model), False: model}
    for wide in (True, False, True):
        paint(models[not wide], None if wide else image_latent)
        with host.training(models[wide]) as network:
            kwargs = network.condition(conditioning[0], (4, 8, 8))
            assert network.widened == (("input_blocks.0.0",) if wide else ())
        assert ("c_concat" in kwargs) is wide
        assert not wide or (kwargs["c_concat"].shape == (1, 4, 8, 8) and not kwargs["c_concat"].any())


@pytest.mark.parametrize("kind", ["plain", "dynamic"])
def test_a_lora_for_the_plain_first_layer_samples_in_either_order(
    build, dynamic, host, paint, image_latent, caplog, kind
):
    model = build() if kind == "plain" else dynamic()
    down, up = torch.randn(2, 4, 3, 3), torch.randn(32, 2, 1, 1)
    style = {"lora_unet_conv_in.lora_down.weight": 0.1 * down, "lora_unet_conv_in.lora_up.weight": up}
    after = paint(stock_load(host.widen(model), style), image_latent)
    assert apart(paint(host.widen(stock_load(model, style)), image_latent), after) < 1e-6
    assert apart(paint(host.widen(model), image_latent), after) > 1e-3
    assert "ERROR" not in caplog.text


def test_nothing_that_clones_share_is_changed(eps_model, host, paint, image_latent, lora, fingerprint):
    eps_model.model.requires_grad_(False)  # as loaders do, and the host with every weight that it has patched
    before, keys = fingerprint(eps_model), eps_model.model.concat_keys
    for model in (host.widen(eps_model), stock_load(host.widen(eps_model), lora)):
        paint(model, image_latent)
        model.detach()
        assert fingerprint(eps_model) == before and eps_model.model.concat_keys == keys


def test_a_cancel_leaves_nothing(eps_model, host, paint, image_latent, watch, fingerprint):
    import comfy.model_management as management

    eps_model.model.requires_grad_(False)
    alone = paint(eps_model)
    eps_model.detach()
    before = fingerprint(eps_model)
    wide = watch(host.widen(eps_model), lambda run, *_: management.interrupt_current_processing() or run())
    with pytest.raises(management.InterruptProcessingException):
        paint(wide, image_latent)
    wide.detach()
    assert fingerprint(eps_model) == before
    assert torch.equal(paint(eps_model), alone)


# --- What it is not for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (FLUX, r"Flux has no UNet .*SD1\.5, SD2\.1, SDXL"),
        (SD3, r"SD3 has no UNet"),
    ],
    ids=["Flux", "SD3"],
)
def test_other_models_are_refused_by_name(empty, host, config, words):
    model = empty(config)
    with pytest.raises(ValueError, match=words):
        host.widen(model)
    assert not model.patches and not model.object_patches


def test_an_inpainting_model_is_refused_by_its_first_layer(eps_model, host):
    eps_model.model.diffusion_model.input_blocks[0][0] = torch.nn.Conv2d(9, 32, 3, padding=1)
    with pytest.raises(ValueError, match="BaseModel takes 9 channels for latents of 4: it is an inpainting"):
        host.widen(eps_model)


def test_a_lora_with_a_condition_for_another_model_is_refused(build, host, node, pack, lora):
    """As one without: by what the network returns, and by the sizes of its layers."""
    files = importlib.import_module(f"{pack.__name__}.d2f_data.files.lora_file")
    model = build("EPS")
    facts = files.LoraFacts(
        "diff2flow", "eps", schedule_fingerprint(host.alignment_of(model).schedule), "noise", 1.0, "",
        host.model_name(model), 1, 0, 0.0, "lora", condition="image",
    )  # fmt: skip
    load = node("D2FLoadLora").execute
    with pytest.raises(ValueError, match="eps-prediction, but this one has v-prediction"):
        load(build("V_PREDICTION"), "none", 1.0, files.LoraModel(lora, facts))
    larger = {**lora, "lora_unet_conv_in.lora_up.weight": torch.zeros(64, 32, 1, 1)}
    larger["lora_unet_conv_in.reshape_weight"] = torch.tensor([64, 8, 3, 3])
    with pytest.raises(ValueError, match=r"other sizes than those of BaseModel \(lora_unet_conv_in\)"):
        load(model, "none", 1.0, files.LoraModel(larger, facts))
    plain = files.LoraModel(lora, dataclasses.replace(facts, condition=""))
    assert not host.widened(load(model, "none", 1.0, plain).result[0])


def test_strength_zero_is_the_untrained_model_with_the_condition(build, host, node, pack, lora, paint, image_latent):
    files = importlib.import_module(f"{pack.__name__}.d2f_data.files.lora_file")
    model = build("EPS")
    facts = files.LoraFacts(
        "diffusion", "eps", schedule_fingerprint(host.alignment_of(model).schedule), "noise", 1.0, "",
        host.model_name(model), 1, 0, 0.0, "lora", condition="image",
    )  # fmt: skip
    load = node("D2FLoadLora").execute
    loaded = {strength: load(model, "none", strength, files.LoraModel(lora, facts)).result[0] for strength in (0, 0.5)}
    assert apart(paint(host.widen(model), image_latent), paint(loaded[0], image_latent)) < 1e-6
    half = stock_load(host.widen(model), lora, 0.5)
    assert apart(paint(half, image_latent), paint(loaded[0.5], image_latent)) < 1e-5
    assert apart(paint(loaded[0], image_latent), paint(loaded[0.5], image_latent)) > 1e-3
    wide, info = load(host.widen(model), "none", 1.0, files.LoraModel(lora, facts)).result[:2]
    assert host.widened(wide) and "image condition added" not in info
