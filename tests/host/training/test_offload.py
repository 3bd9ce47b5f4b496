"""The frozen weights in the main memory while a LoRA is trained: the same LoRA, and nothing of it left behind."""

from contextlib import nullcontext

import pytest
import torch

META = torch.device("meta")


@pytest.fixture
def with_lora(stock, train, build):
    """`with_lora(model)` -> a clone with a LoRA on it."""
    lora = train(build(), steps=2, learning_rate=0.3, run_name="before", targets="all")[0]
    return lambda model: stock("train", "LoraModelLoader").execute(model, lora, 1.0).result[0]


@pytest.fixture(params=["plain", "dynamic"])
def make(request, build, dynamic):
    """`make(...)` -> a MODEL of either patcher of the host."""
    return build if request.param == "plain" else dynamic


@pytest.mark.parametrize("settings", [{}, {"checkpointing": True, "precision": "bf16"}], ids=["plain", "bf16"])
@pytest.mark.parametrize("patched", [False, True])
def test_it_gives_the_lora_of_a_run_without_bit_for_bit(
    make, train, same, with_lora, sample, table_levels, unharmed, patched, settings
):
    model = with_lora(make()) if patched else make()
    one, losses = train(model, run_name="usual", targets="all", **settings)[:2]
    before = sample(model, table_levels(model, 2))
    with nullcontext() if patched else unharmed(model):  # the host takes the LoRA off what it unloads
        two, again = train(model, run_name="offloaded", targets="all", offload=True, **settings)[:2]
    assert same(one, two) and losses == again and one.facts.base == two.facts.base
    assert torch.equal(sample(model, table_levels(model, 2)), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_a_lora_on_small_weights_is_rounded_as_the_host_rounds_it(build, train, same, with_lora, dtype):
    """At random, from the name of the weight, when it loads them."""
    model = with_lora(build(dtype=dtype, computes=torch.float32))
    usual = train(model, run_name="usual")[0]
    assert same(train(model, run_name="offloaded", offload=True)[0], usual)


def test_every_product_and_convolution_brings_its_weight(build, host):
    with host.training(build(), offload=True) as network:
        layers = [layer for layer in network.module.modules() if type(layer).__name__ in ("Linear", "Conv2d")]
        assert len(layers) > 50 and all("forward" in vars(layer) for layer in layers)
    with host.training(build()) as network:
        assert not any("forward" in vars(layer) for layer in network.module.modules())


@pytest.fixture
def on_meta(build, monkeypatch):
    """A MODEL that computes on torch's meta device, of which the host knows no memory to clear."""
    import comfy.model_management as management

    free = management.get_free_memory
    plenty = lambda device=None, both=False: (1 << 40, 1 << 40) if both else 1 << 40  # noqa: E731
    monkeypatch.setattr(
        management,
        "get_free_memory",
        lambda device=None, torch_free_too=False: (plenty if device == META else free)(device, torch_free_too),
    )
    model = build()
    model.load_device = META
    return model


def test_on_another_device_nothing_is_missing(on_meta, host, conditioning):
    """On the meta device an operation with a weight on the CPU raises."""
    from diff2flow_kit.d2f_core import AdapterSettings, attached, make_adapters

    model = on_meta
    for recompute in (False, True):
        with host.training(model, recompute=recompute, offload=True) as network, torch.enable_grad():
            adapters = make_adapters(network.module, AdapterSettings("all", 2), torch.Generator())
            parameters = [p for adapter in adapters.values() for p in adapter.to(META).parameters()]
            told = network.condition(conditioning[0], (4, 8, 8))
            for _ in range(2):
                with attached(network.module, adapters):
                    output = network(torch.randn(1, 4, 8, 8, device=META), torch.tensor([500.0]), told)
                    found = torch.autograd.grad(output.sum(), parameters)
            assert {one.device for one in (output, *found)} == {META}
            kept = {path: weight.device.type for path, weight in network.module.named_parameters() if weight.ndim > 1}
            assert set(kept.values()) == {"cpu"}
    assert {weight.device.type for weight in model.model.parameters()} == {"cpu"}


def test_the_model_leaves_the_device_and_comes_back(build, host, monkeypatch, unharmed):
    import comfy.model_management as management

    model = build()
    management.load_models_gpu([model])
    with unharmed(model):
        with host.training(model, offload=True):
            assert not [one for one in management.current_loaded_models if one.model is not None]
        management.load_models_gpu([model])
        assert [one.model for one in management.current_loaded_models] == [model]


class Cancelled(BaseException):
    pass


def test_a_cancel_leaves_nothing_and_the_run_goes_on(make, train, same, unharmed, around_network):
    model, calls = make(), []
    whole = train(model, run_name="whole", steps=4)[0]

    def cancel(call, network, x):
        calls.append(x)
        if len(calls) == 3:
            raise Cancelled
        return call()

    around_network(cancel)
    with unharmed(model), pytest.raises(Cancelled):
        train(model, steps=4, offload=True)
    assert same(train(model, steps=4, offload=False)[0], whole)  # resumed, without it


def test_the_hosts_cancel_acts_within_a_layer(build, host, conditioning, monkeypatch):
    import comfy.model_management as management

    with host.training(build(), offload=True) as network:
        told = network.condition(conditioning[0], (4, 8, 8))
        management.interrupt_current_processing(True)
        try:
            with pytest.raises(management.InterruptProcessingException):
                network.module.out[2](torch.zeros(1, 32, 8, 8))
        finally:
            management.interrupt_current_processing(False)
        assert torch.isfinite(network(torch.zeros(1, 4, 8, 8), torch.tensor([5.0]), told)).all()


def test_what_it_cannot_do_is_said(build, on_meta, host):
    with host.training(build(), compiled=True, offload=True) as network:
        assert network.remarks == ["not compiled, because the weights come from the main memory (offload)"]
        assert not network.compiled
    on_meta.offload_device = META
    with host.training(on_meta, offload=True) as network:
        assert len(network.remarks) == 1 and "--highvram" in network.remarks[0]
