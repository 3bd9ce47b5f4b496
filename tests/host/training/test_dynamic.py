"""The host's dynamic patcher, the default on GPUs, keeps weights elsewhere and patches them when a layer runs."""

import pytest
import torch


@pytest.fixture
def with_lora(stock, train, build):
    """`with_lora(model)` -> a clone with a LoRA on it."""
    lora = train(build(), steps=2, learning_rate=0.3, run_name="before", targets="all")[0]
    return lambda model: stock("train", "LoraModelLoader").execute(model, lora, 1.0).result[0]


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("settings", [{}, {"checkpointing": True, "precision": "bf16"}], ids=["plain", "bf16"])
def test_it_gives_the_lora_of_the_plain_patcher(build, dynamic, train, with_lora, unharmed, patched, settings):
    plain, model = build(), dynamic()
    first = train(plain, run_name="base", **settings)[1]["loss"][0]
    if patched:
        plain, model = with_lora(plain), with_lora(model)
        assert model.is_dynamic() and model.patches
    # The sampling of `unharmed` comes before the training: small layers are patched by then.
    one, losses = train(plain, run_name="plain", **settings)[:2]
    with unharmed(model):
        two = train(model, run_name="dynamic", **settings)[0]
    assert (losses["loss"][0] != first) is patched  # the LoRA before is part of what is trained on
    assert one.facts.base == two.facts.base
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-5, atol=1e-7)


def test_a_lora_before_the_node_is_kept_on_the_model(build, train, with_lora, sample, table_levels):
    model = with_lora(build())
    levels = table_levels(model, 2)
    before, patches = sample(model, levels), {key: len(value) for key, value in model.patches.items()}
    train(model)
    assert {key: len(value) for key, value in model.patches.items()} == patches
    assert torch.equal(sample(model, levels), before)


def test_the_view_holds_its_weights_and_fetches_none(dynamic, host):
    model = dynamic()
    layer = model.model.diffusion_model.input_blocks[0][0]
    layer._v, layer.weight_lowvram_function = object(), object()
    with host.training(model) as network:
        assert not {"_v", "weight_lowvram_function"} & vars(network.module.input_blocks[0][0]).keys()
    assert {"_v", "weight_lowvram_function"} <= vars(layer).keys()
    del layer._v, layer.weight_lowvram_function
