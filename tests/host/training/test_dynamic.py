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


@pytest.mark.parametrize("converted", [False, True])
def test_the_imitation_samples_a_lora_as_the_plain_patcher_does(
    host, build, dynamic, with_lora, sample, table_levels, converted
):
    """Without this, what the tests say of LoRAs under the dynamic patcher would prove nothing."""
    plain, model = with_lora(build()), with_lora(dynamic())
    levels = table_levels(plain, 4)
    bare = sample(build(), levels)
    if converted:
        plain, model, levels = host.convert(plain), host.convert(model), levels / (1 + levels)
    expected = sample(plain, levels)
    assert float((expected - bare).std()) > 0.05 * float(bare.std())
    torch.testing.assert_close(sample(model, levels), expected, rtol=1e-4, atol=1e-5)


def test_a_lora_before_the_node_is_kept_on_the_model(build, train, with_lora, sample, table_levels):
    model = with_lora(build())
    levels = table_levels(model, 2)
    before, patches = sample(model, levels), {key: len(value) for key, value in model.patches.items()}
    train(model)
    assert {key: len(value) for key, value in model.patches.items()} == patches
    assert torch.equal(sample(model, levels), before)


def as_in_a_file(model, dtype):
    """The weights in a checkpoint's type: the dynamic patcher casts them when a layer runs, to what is noted there."""
    for layer in model.model.diffusion_model.modules():
        for name, weight in list(layer._parameters.items()):
            if weight is not None:
                layer._parameters[name] = torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False)


@pytest.fixture
def answer(host, conditioning):
    """`answer(model)` -> what the network in training says, and its weights by path."""
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))

    def of(model, precision="auto"):
        with host.training(model, precision) as network, torch.no_grad():
            told = network.condition(conditioning[0], (4, 8, 8))
            both = {name: tensor.repeat(2, *(1,) * (tensor.ndim - 1)) for name, tensor in told.items()}
            said = network(noise, torch.tensor([500.0, 20.0]), both)
            return said, {path: weight.clone() for path, weight in network.module.named_parameters()}

    return of


@pytest.mark.parametrize("precision", ["auto", "bf16"])
@pytest.mark.parametrize(
    ("of_model", "of_file"),
    [(torch.float16, torch.float32), (torch.float32, torch.float16), (torch.bfloat16, torch.float16)],
)
def test_weights_are_of_the_models_type_whatever_the_files(build, dynamic, answer, of_model, of_file, precision):
    model, plain = dynamic(dtype=of_model), build(dtype=of_model)
    if not hasattr(model.model.diffusion_model.input_blocks[0][0], "weight_comfy_model_dtype"):
        pytest.skip("this ComfyUI loads weights into the model's own type")
    for one in (model, plain):  # the plain patcher's weights have been through the file's type, too
        as_in_a_file(one, of_file)
    as_in_a_file(plain, of_model)
    said, weights = answer(model, precision)
    wanted, theirs = answer(plain, precision)
    assert {weight.dtype for weight in weights.values()} == {of_model if precision == "auto" else torch.bfloat16}
    assert all(torch.equal(weights[path], theirs[path]) for path in theirs) and torch.equal(said, wanted)


def test_a_patch_on_weights_of_8_bits_is_kept(dynamic, answer):
    """Nothing can be added to such weights; in the host the error of a LoRA there is only a line in the log."""
    path = "middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    model = dynamic(dtype=torch.float8_e4m3fn, computes=torch.bfloat16)
    plain = model.model.diffusion_model.get_parameter(path)
    delta = 0.1 * torch.randn(plain.shape, generator=torch.Generator().manual_seed(4))
    patched = model.clone()
    patched.add_patches({f"diffusion_model.{path}": ("diff", (delta,))})
    before, weights = answer(model)
    after, changed = answer(patched)
    assert weights[path].dtype is torch.float8_e4m3fn
    assert torch.equal(changed[path], (plain.float() + delta).bfloat16())
    assert not torch.equal(before, after) and torch.isfinite(after).all()


def test_a_patch_on_quantized_weights_is_kept(dynamic, part):
    """The host's own class of them stays quantized whatever type it is cast to, and takes nothing that is added."""
    from comfy import quant_ops

    kind = getattr(quant_ops, "QuantizedTensor", None)
    if not hasattr(kind, "from_float"):
        pytest.skip("this ComfyUI has no quantized weights, or lacks the package that makes them")
    model, path = dynamic(), "middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    layer = model.model.diffusion_model.get_submodule(path.removesuffix(".weight"))
    with torch.inference_mode(False):  # as in training; under it a cast would be enough
        weight, delta = torch.randn(2, *layer.weight.shape, generator=torch.Generator().manual_seed(4))
        small = kind.from_float(weight.bfloat16(), "TensorCoreFP8E4M3Layout")
        layer._parameters["weight"] = torch.nn.Parameter(small, requires_grad=False)
        model.add_patches({f"diffusion_model.{path}": ("diff", (delta,))})
        fetched = part("host.model_call.frozen")._fetch(model, path)
        assert type(fetched) is torch.Tensor
        assert torch.equal(fetched, (small.dequantize().float() + delta).to(fetched.dtype))


def test_the_view_holds_its_weights_and_fetches_none(dynamic, host):
    model = dynamic()
    layer = model.model.diffusion_model.input_blocks[0][0]
    layer._v, layer.weight_lowvram_function = object(), object()
    with host.training(model) as network:
        assert not {"_v", "weight_lowvram_function"} & vars(network.module.input_blocks[0][0]).keys()
    assert {"_v", "weight_lowvram_function"} <= vars(layer).keys()
    del layer._v, layer.weight_lowvram_function
