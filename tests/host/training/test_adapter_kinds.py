"""DoRA and OFT beside the layers of a real network: nothing at first, exact gradients, exact resumes, refusals."""

import pytest
import torch

NEW = ("dora", "oft")
TIMESTEPS = torch.tensor([900.0, 300.0])


@pytest.fixture
def adapted(host, conditioning):
    """`with adapted(model, kind, size) as (call, adapters)`: its network with adapters, moved by `size` at random."""
    from contextlib import contextmanager

    from diff2flow_kit.d2f_core import AdapterSettings, attached, make_adapters

    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    @contextmanager
    def on(model, kind, size, targets="all", **options):
        with host.training(model, **options) as network:
            generator = torch.Generator().manual_seed(3)
            adapters = make_adapters(network.module, AdapterSettings(targets, 4), generator, host.ADAPTER_KINDS[kind])
            trained = [p for one in adapters.values() for p in one.eval().parameters() if p.requires_grad]
            for parameter in trained:
                parameter.data += size * torch.randn(parameter.shape, generator=generator)
            condition = network.condition(conditioning[0], (4, 8, 8))
            both = {name: tensor.repeat(2, 1, 1) for name, tensor in condition.items()}

            def call(with_adapters=True):
                with attached(network.module, adapters if with_adapters else {}), torch.enable_grad():
                    return network(x.clone(), TIMESTEPS, both)

            yield call, trained

    return on


@pytest.mark.parametrize("options", [{}, {"dtype": "bf16"}, {"offload": True}], ids=["plain", "bf16", "offload"])
@pytest.mark.parametrize("kind", NEW)
def test_new_adapters_add_nothing(build, adapted, kind, options):
    with adapted(build(), kind, 0.0, **options) as (call, _):
        assert torch.equal(call(), call(with_adapters=False))


@pytest.mark.parametrize("kind", NEW)
def test_the_gradient_is_that_of_finite_differences(build, adapted, kind):
    """Along the gradient, in all adapters of linear and convolution layers at once."""
    with adapted(build(), kind, 0.05) as (call, trained):
        slopes = torch.autograd.grad(call().double().square().sum(), trained)
        length = sum(float(slope.double().square().sum()) for slope in slopes) ** 0.5

        def loss(step):
            for parameter, slope in zip(trained, slopes, strict=True):
                parameter.data += step / length * slope
            return float(call().detach().double().square().sum())

        above = loss(0.02)
        measured = (above - loss(-0.04)) / 0.04
    assert measured == pytest.approx(length, rel=5e-3) and length > 1


@pytest.mark.parametrize("kind", NEW)
def test_weights_of_eight_bits_train_as_their_values(build, adapted, kind):
    small, plain = build(dtype=torch.float8_e4m3fn, computes=torch.float32), build()
    for one, other in zip(small.model.diffusion_model.parameters(), plain.model.diffusion_model.parameters()):
        other.data.copy_(one.float())
    found = []
    for model in (small, plain):
        with adapted(model, kind, 0.05, "attention") as (call, trained):
            output = call()
            slopes = torch.autograd.grad(output.square().mean(), trained)
            found.append((output.detach(), *slopes))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


EVERYTHING = {"ema": 0.9, "dropout": 0.2, "accumulation": 2, "lr_schedule": "constant", "weight_decay": 0.01}


@pytest.mark.parametrize("kind", NEW)
def test_runs_go_on_bit_for_bit_with_offloaded_weights_or_without(build, train, same, kind):
    settings = {**EVERYTHING, "adapter": kind, "targets": "attention_and_conv", "layer_rules": "conv:* rank=2 rate=0.5"}
    whole = train(build(), steps=4, run_name="whole", **settings)[0]
    train(build(), steps=2, run_name="parts", **settings)
    assert same(train(build(), steps=4, run_name="parts", offload=True, **settings)[0], whole)
    assert whole.facts.kind == kind


def test_the_lengths_of_a_file_in_half_precision_are_those_of_the_training(build, train, saved):
    """Rounded to float16 they would change the weights by more than they were trained."""
    import safetensors.torch

    lora = train(build(), adapter="dora", steps=1)[0]
    stored = safetensors.torch.load_file(saved()[0])
    lengths = [key for key in lora if key.endswith("dora_scale")]
    assert lengths and all(torch.equal(stored[key], lora[key]) for key in lengths)
    assert {stored[key].dtype for key in lora if "lora_up" in key} == {torch.float16}


def test_a_turn_in_blocks_of_one_is_refused(build, train, unharmed):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=r"adapter oft turns blocks .* set a higher rank"):
        train(model, adapter="oft", rank=1)


def test_weights_that_are_not_to_be_seen_are_refused_for_dora(host):
    layer = torch.nn.Linear(4, 4)
    layer.scale_weight = torch.ones(())
    with pytest.raises(
        ValueError, match=r"adapter dora needs the weights of its layers.*choose the adapter lora or oft"
    ):
        host.ADAPTER_KINDS["dora"](layer, 2, 2.0, 0.0, torch.Generator())
    with pytest.raises(ValueError, match="a single output"):
        host.ADAPTER_KINDS["dora"](torch.nn.Linear(4, 1), 1, 1.0, 0.0, torch.Generator())


@pytest.mark.parametrize("more", ["rescale", "diff_b"])
def test_a_turn_with_a_scale_or_a_bias_is_not_gone_on_with(build, train, more):
    lora = dict(train(build(), adapter="oft", steps=1, target_pattern="*.to_out.0")[0])
    name = next(key for key in lora if key.endswith(".oft_blocks"))
    outputs = lora[name].shape[0] * lora[name].shape[1]
    lora[name.replace("oft_blocks", more)] = torch.ones(outputs, *(1,) * (more == "rescale"))
    with pytest.raises(ValueError, match="in a way that cannot be trained"):
        train(build(), start_lora=[lora], adapter="oft", run_name="next")


def test_a_turn_without_alpha_has_no_limit(build, train):
    lora = dict(train(build(), adapter="oft", learning_rate=0.02)[0])
    free = {key: value for key, value in lora.items() if not key.endswith("alpha")}
    first = [
        train(build(), steps=1, start_lora=[one], adapter="oft", run_name="next", resume="new")[1]["loss"][0]
        for one in (lora, free)
    ]
    assert first[0] == pytest.approx(first[1], rel=1e-6)
