"""LoRAs of another model are refused by name, whatever kind of adapter they hold, where the host would do nothing."""

import contextlib

import pytest
import torch

# A linear layer of 32 x 16 (in a 16-wide context) and a convolution of 32 x 4 x 3 x 3, as the test model has them.
LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_conv_in"


def rand(*shape):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def linear(kind, out, wide):
    """Tensors of an adapter of a linear layer, out x wide, with rank 2."""
    return {
        "lora": {"lora_up.weight": rand(out, 2), "lora_down.weight": rand(2, wide)},
        "diffusers": {"lora_B.weight": rand(out, 2), "lora_A.weight": rand(2, wide)},
        "dora": {"lora_up.weight": rand(out, 2), "lora_down.weight": rand(2, wide), "dora_scale": torch.ones(out, 1)},
        "loha": {
            "hada_w1_a": rand(out, 2),
            "hada_w1_b": rand(2, wide),
            "hada_w2_a": rand(out, 2),
            "hada_w2_b": rand(2, wide),
        },
        "lokr": {"lokr_w1": rand(4, 4), "lokr_w2_a": rand(out // 4, 2), "lokr_w2_b": rand(2, wide // 4)},
        "lokr, full": {"lokr_w1": rand(4, 4), "lokr_w2": rand(out // 4, wide // 4)},
        "glora": {
            "a1.weight": rand(wide, 2),
            "a2.weight": rand(2, wide),
            "b1.weight": rand(out, 2),
            "b2.weight": rand(2, wide),
        },
        "oft": {"oft_blocks": rand(out // 8, 8, 8)},
        "oft, constrained": {"oft_blocks": rand(out // 8, 8, 8), "alpha": torch.tensor(0.1)},
        "boft": {"oft_blocks": rand(2, out // 8, 8, 8), "alpha": torch.tensor(0.1)},
        "diff": {"diff": rand(out, wide)},
        "norm": {"w_norm": rand(out, wide)},
        "set": {"set_weight": rand(out, wide)},
    }[kind]


def conv(kind, out, wide):
    """Tensors of an adapter of a convolution, out x wide x 3 x 3, with rank 2."""
    return {
        "locon": {"lora_up.weight": rand(out, 2, 1, 1), "lora_down.weight": rand(2, wide, 3, 3)},
        "locon, mid": {
            "lora_up.weight": rand(out, 2),
            "lora_mid.weight": rand(2, 2, 3, 3),
            "lora_down.weight": rand(2, wide),
        },
        "loha": {
            "hada_w1_a": rand(out, 2),
            "hada_w1_b": rand(2, wide * 9),
            "hada_w2_a": rand(out, 2),
            "hada_w2_b": rand(2, wide * 9),
        },
        "loha, tucker": {
            "hada_w1_a": rand(2, out),
            "hada_w1_b": rand(2, wide),
            "hada_t1": rand(2, 2, 3, 3),
            "hada_w2_a": rand(2, out),
            "hada_w2_b": rand(2, wide),
            "hada_t2": rand(2, 2, 3, 3),
        },
        "lokr": {"lokr_w1": rand(4, 2), "lokr_w2": rand(out // 4, wide // 2, 3, 3)},
        "lokr, tucker": {
            "lokr_w1": rand(4, 2),
            "lokr_t2": rand(2, 2, 3, 3),
            "lokr_w2_a": rand(2, out // 4),
            "lokr_w2_b": rand(2, wide // 2),
        },
        "oft": {"oft_blocks": rand(out // 8, 8, 8)},
        "diff": {"diff": rand(out, wide, 3, 3)},
        "diff_b": {"diff_b": rand(out)},
    }[kind]


KINDS = [
    (linear, kind, (32, 16), (64, 32))
    for kind in (
        "lora",
        "diffusers",
        "dora",
        "loha",
        "lokr",
        "lokr, full",
        "glora",
        "oft",
        "oft, constrained",
        "boft",
        "diff",
        "norm",
        "set",
    )
]
KINDS += [
    (conv, kind, (32, 4), (64, 8))
    for kind in (
        "locon",
        "locon, mid",
        "loha",
        "loha, tucker",
        "lokr",
        "oft",
        "diff",
        "diff_b",
    )
]
IDS = [f"{make.__name__}: {kind}" for make, kind, *_ in KINDS]


@pytest.fixture
def load(node):
    return lambda model, lora: node("D2FLoadLora").execute(model, "none", 1.0, lora).result[0]


def named(make, tensors):
    return {f"{LINEAR if make is linear else CONV}.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(("make", "kind", "own", "other"), KINDS, ids=IDS)
def test_each_kind_is_applied_where_it_fits(build, load, sample, table_levels, caplog, make, kind, own, other):
    model = build()
    loaded = load(model, named(make, make(kind, *own)))
    levels = table_levels(model, 2)
    assert not torch.equal(sample(loaded, levels), sample(model, levels))
    assert not caplog.records


def test_what_the_host_itself_fails_on_is_refused_though_it_fits(build, load, sample, table_levels):
    """torch.kron cannot take the core of a Tucker LoKr as the host makes it, so the stock loader changes nothing."""
    import comfy.sd

    model, lora = build(), named(conv, conv("lokr, tucker", 32, 4))
    levels = table_levels(model, 2)
    stock = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0]
    if not torch.equal(sample(stock, levels), sample(model, levels)):
        pytest.skip("this host applies it")
    with pytest.raises(ValueError, match="or a form that this ComfyUI fails on"):
        load(model, lora)


@pytest.mark.parametrize(("make", "kind", "own", "other"), KINDS, ids=IDS)
def test_each_kind_of_another_model_is_refused_by_name(build, load, caplog, make, kind, own, other):
    name = LINEAR if make is linear else CONV
    with pytest.raises(ValueError, match=rf"1 layers of this LoRA have other sizes than those of .*\({name}\)"):
        load(build(), named(make, make(kind, *other)))
    assert not caplog.records  # the host's own words about the trial are not for the user


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr, full"])
def test_the_same_number_of_values_is_not_enough(build, load, kind):
    """64 x 8 is as many as 32 x 16, and the host would cut it into other rows."""
    with pytest.raises(ValueError, match="other sizes"):
        load(build(), named(linear, linear(kind, 64, 8)))


def test_every_kind_of_adapter_of_the_host_is_tried(comfy):
    import comfy.weight_adapter

    tried = {make.__name__ + kind for make, kind, *_ in KINDS}
    names = {adapter.name for adapter in comfy.weight_adapter.adapters}
    assert names == {"lora", "loha", "lokr", "glora", "oft", "boft"}
    assert all(any(name in one for one in tried) for name in names)


def test_a_wrong_one_among_many_is_found(build, load):
    lora = {**named(linear, linear("lora", 32, 16)), **named(conv, conv("lokr", 64, 8))}
    with pytest.raises(ValueError, match=rf"1 layers .*\({CONV}\)"):
        load(build(), lora)


@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_a_lora_without_one_of_its_tensors_is_named(build, load, kind):
    lora = named(linear, linear(kind, 32, 16))
    lost = next(key for key in lora if key.endswith(("lora_down.weight", "hada_w2_b")))
    del lora[lost]
    with pytest.raises(ValueError, match=rf"lacks the tensor '{lost}'"):
        load(build(), lora)


def test_a_format_that_the_host_does_not_know_is_named(build, load):
    with pytest.raises(ValueError, match=r"tensors of a kind that this ComfyUI does not know \(.*future"):
        load(build(), {f"{LINEAR}.future.weight": torch.ones(3)})


def test_the_trial_leaves_the_log_as_it_was(build, load):
    import logging

    before = list(logging.getLogger().filters)
    for shape in ((32, 16), (64, 32)):
        with contextlib.suppress(ValueError):
            load(build(), named(linear, linear("lora", *shape)))
    assert logging.getLogger().filters == before
