"""The host's attentions in training: equal gradients, and none without a backward pass."""

import pytest
import torch

OTHERS = ["attention_basic", "attention_sub_quad", "attention_split"]


@pytest.fixture
def gradients(build, host, latents, conditioning, monkeypatch):
    """`gradients(name)` -> gradient of all adapters of one model with that attention of the host's.

    With `recompute` under checkpointing; `put(model)` does something to a clone of the model before.
    """
    from comfy.ldm.modules import attention

    from diff2flow_kit.d2f_core import AdapterSettings, attached, make_adapters

    base = build()

    def of(name, recompute=False, put=lambda model: None):
        monkeypatch.setattr(attention, "optimized_attention", getattr(attention, name))
        model = base.clone()
        put(model)
        with host.training(model, recompute=recompute) as network:
            generator = torch.Generator().manual_seed(3)
            adapters = make_adapters(network.module, AdapterSettings("all", 2), generator)
            parameters = [p for adapter in adapters.values() for p in adapter.parameters()]
            for parameter in parameters:
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
            condition = network.condition(conditioning[0], (4, 8, 8))
            with attached(network.module, adapters):
                output = network(network.latents(latents[:1]) * 5, torch.tensor([500.0]), condition)
                return torch.cat([g.flatten() for g in torch.autograd.grad((output**2).sum(), parameters)])

    return of


@pytest.mark.parametrize("name", OTHERS)
def test_gradients_agree(gradients, name):
    """To the rounding of float32 through the whole network: about 1e-6; of one attention it is 5e-7."""
    wanted = gradients("attention_pytorch")
    assert float((gradients(name) - wanted).norm() / wanted.norm()) < 2e-6


def test_an_attention_that_another_node_has_put_in_is_recomputed_too(gradients):
    """It is chosen by where in the network it is, which the host notes in a dict while the network runs."""

    def put(model):
        model.set_model_attn2_replace(lambda q, k, v, options: q.tanh() + (k * v).mean(1, True), "middle", 0)

    plain, kept, again = (gradients("attention_pytorch", *how) for how in ((False,), (False, put), (True, put)))
    assert torch.equal(kept, again) and not torch.equal(kept, plain)


@pytest.mark.parametrize("name", OTHERS)
def test_gradients_of_one_attention_agree(comfy, name):
    from comfy.ldm.modules import attention

    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(0)
        q, k, v, weight = torch.randn(4, 2, 64, 64, generator=generator)
        wanted, found = (
            torch.autograd.grad(
                (weight * getattr(attention, one)(*inputs, heads=4)).sum(),
                inputs,
            )
            for one in ("attention_pytorch", name)
            for inputs in [[tensor.clone().requires_grad_() for tensor in (q, k, v)]]
        )
    for one, other in zip(wanted, found):
        assert float((one - other).norm() / one.norm()) < 5e-7


@pytest.mark.parametrize("name", ["attention_sage", "attention3_sage", "attention_flash"])
def test_an_attention_without_backward_is_replaced(build, train, unharmed, same, monkeypatch, name):
    from comfy.ldm.modules import attention

    calls = []

    def forward_only(*args, **kwargs):
        calls.append(args)
        return attention.attention_pytorch(*args, **kwargs).detach()

    forward_only.__name__ = name
    model = build()
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    plain = train(model)[0]
    monkeypatch.setattr(attention, "optimized_attention", attention.wrap_attn(forward_only))
    with unharmed(model):
        calls.clear()
        lora = train(model, run_name="other")[0]
        assert not calls
    assert same(plain, lora) and calls  # of the sampling afterwards


def test_an_attention_that_a_node_has_put_in_is_replaced(build, train, same, monkeypatch):
    from comfy.ldm.modules import attention

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    model, patched = build(), build()

    def forward_only(func, *args, **kwargs):
        return func(*args, **kwargs).detach()

    patched.model_options["transformer_options"] = {"optimized_attention_override": forward_only}
    plain, lora = train(model)[0], train(patched, run_name="other")[0]
    assert same(plain, lora)
    assert patched.model_options["transformer_options"] == {"optimized_attention_override": forward_only}
