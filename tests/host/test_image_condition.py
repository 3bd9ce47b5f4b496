"""A MODEL with a second latent beside the noisy one: what it answers, what it leaves alone, what travels in files."""

import pytest
import torch

from diff2flow_kit.d2f_data.fingerprints import schedule_fingerprint


@pytest.fixture
def text(conditioning):
    """CONDITIONING of a prompt."""
    return conditioning[0]


@pytest.fixture
def condition():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def sample(host, node, text, stock_sampler):
    """`sample(model, condition=None)` -> latents (2, 4, 8, 8) of four Euler steps from fixed noise."""
    with_condition = host.with_condition

    def run(model, condition=None, negative=None):
        positive = text if condition is None else with_condition(text, condition)
        return stock_sampler(model, positive, positive if negative is None else negative)

    return run


@pytest.fixture
def stock_sampler():
    import comfy.sample
    import comfy.samplers

    def run(model, positive, negative):
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
        sampler = comfy.samplers.sampler_object("euler")
        return comfy.sample.sample_custom(
            model, noise, 1.0, sampler, sigmas, positive, negative, torch.zeros_like(noise), disable_pbar=True, seed=1
        )

    return run


def first_patch(value=1e-2, channels=4, out=32):
    """A patch of the first convolution, as a LoRA's or a merge's."""
    diff = torch.full((out, channels, 3, 3), value)
    return {"diffusion_model.input_blocks.0.0.weight": ("diff", (diff,))}


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


# --- What it answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION"])
def test_on_a_doubled_input_the_untrained_model_answers_as_before(kind, build, host, text, condition):
    model = build(kind)
    wide = host.widen(model)
    answers = []
    for one in (model, wide):
        with host.training(one) as network:
            x = network.latents(condition)
            kwargs = {**network.condition(text, x.shape[1:])}
            kwargs = {name: value.expand(2, *value.shape[1:]) for name, value in kwargs.items()}
            if one is wide:
                assert network.widened == ("input_blocks.0.0",)
                kwargs["c_concat"] = x
            with torch.no_grad():
                answers.append(network(x, torch.full((2,), 500.0), kwargs))
    # To the rounding of float32, which differs between processors: 7e-7 to 2.5e-6 of the whole.
    assert float((answers[0] - answers[1]).norm() / answers[0].norm()) < 5e-6
    assert answers[0].std() > 1e-3


def test_the_host_concatenates_the_condition_with_the_noisy_latent(eps_model, host, sample, condition, watch):
    inputs = []
    wide = host.widen(eps_model)
    spy = watch(wide, lambda run, x, timesteps: (inputs.append(x.clone()), run())[1])
    sample(spy, condition)
    expected = eps_model.model.process_latent_in(condition)
    assert len(inputs) == 4 and all(x.shape == (2, 8, 8, 8) for x in inputs)
    torch.testing.assert_close(inputs[0][:, 4:], expected)
    torch.testing.assert_close(inputs[-1][:, 4:], expected)
    assert (sample(wide, condition) - sample(wide, -condition)).abs().max() > 1e-3


def test_a_conversion_before_or_after_makes_no_difference(eps_model, host, sample, condition):
    before = host.widen(host.convert(eps_model))
    after = host.convert(host.widen(eps_model))
    torch.testing.assert_close(sample(before, condition), sample(after, condition), rtol=0, atol=0)


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_lora_on_the_first_layer_counts_in_either_order(order, eps_model, host, sample, condition):
    patched = eps_model.clone()
    if order == "before":
        patched.add_patches(first_patch())
        patched = host.widen(patched)
    else:
        patched = host.widen(patched)
        patched.add_patches(first_patch())
    with host.training(patched) as network:
        weight = network.module.get_submodule("input_blocks.0.0").weight.clone()
    plain = host.widen(eps_model)
    with host.training(plain) as network:
        widened = network.module.get_submodule("input_blocks.0.0").weight.clone()
    torch.testing.assert_close(weight[:, :4] + weight[:, 4:], widened[:, :4] + widened[:, 4:] + 1e-2)
    assert torch.isfinite(sample(patched, condition)).all()


# --- What it leaves alone -------------------------------------------------------------------------


def test_clones_take_turns_and_the_model_stays_as_it_was(eps_model, host, sample, condition):
    before, alone = weights_of(eps_model), sample(eps_model)
    wide = host.widen(eps_model)
    first = sample(wide, condition)
    torch.testing.assert_close(sample(eps_model), alone, rtol=0, atol=0)
    torch.testing.assert_close(sample(wide, condition), first, rtol=0, atol=0)
    wide.detach()
    assert not list(eps_model.model.concat_keys)
    for name, tensor in eps_model.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_the_weights_of_a_loaded_clone_are_not_taken_for_the_models(eps_model, host, sample, condition):
    wide = host.widen(eps_model)
    first = sample(wide, condition)
    again = host.widen(eps_model)  # while the live weight is the wide one
    torch.testing.assert_close(sample(again, condition), first, rtol=0, atol=0)


def test_an_error_while_sampling_leaves_nothing(eps_model, host, sample, condition, watch):
    alone = sample(eps_model)

    def fail(run, x, timesteps):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        sample(watch(host.widen(eps_model), fail), condition)
    torch.testing.assert_close(sample(eps_model), alone, rtol=0, atol=0)


# --- What is refused ------------------------------------------------------------------------------


def test_sampling_without_a_condition_names_the_remedy(eps_model, host, sample, condition, text):
    wide = host.widen(eps_model)
    with pytest.raises(ValueError, match=r"'positive' has none; put 'Apply Image Condition"):
        sample(wide)
    with pytest.raises(ValueError, match=r"'negative' has none; put 'Apply Image Condition"):
        sample(wide, condition, negative=text)


def test_twice_is_refused(eps_model, host):
    with pytest.raises(ValueError, match="before; remove the second one"):
        host.widen(host.widen(eps_model))


def test_an_inpainting_model_is_refused(eps_model, host):
    editing = eps_model.clone()
    editing.add_object_patch("concat_keys", ("mask", "masked_image"))
    with pytest.raises(ValueError, match="inpainting or editing model"):
        host.widen(editing)


def test_a_model_without_a_unet_is_refused(eps_model, host):
    eps_model.model.diffusion_model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="no UNet whose first layer is a convolution"):
        host.widen(eps_model)


# --- The text -----------------------------------------------------------------------------


def test_the_node_shows_the_picture_to_both(node, text, condition):
    execute = node("D2FApplyCondition").execute
    positive, negative = execute(text, {"samples": condition}).args
    assert positive is negative
    assert positive[0][1]["concat_latent_image"] is condition
    assert "concat_latent_image" not in text[0][1]
    positive, negative = execute(text, {"samples": condition}, text).args
    assert negative is not positive and negative[0][1]["concat_latent_image"] is condition


def test_a_condition_that_is_no_picture_is_refused(node, text, condition):
    execute = node("D2FApplyCondition").execute
    with pytest.raises(ValueError, match=r"shape \(4, 8, 8\)"):
        execute(text, {"samples": condition[0]})
    with pytest.raises(ValueError, match="finite"):
        execute(text, {"samples": condition * float("nan")})


def test_another_size_is_scaled_and_one_condition_serves_a_batch(eps_model, host, sample, condition):
    large = torch.nn.functional.interpolate(condition, scale_factor=2)
    assert sample(host.widen(eps_model), large[:1]).shape == condition.shape


# --- Files ----------------------------------------------------------------------------------------


@pytest.fixture
def learned(pack):
    """An adapter of a first layer as training might leave it, and its tensors in a file."""
    import importlib

    core = importlib.import_module(f"{pack.__name__}.d2f_core")

    def make(layer, seed=0):
        adapter = core.WidenedAdapter(layer)
        generator = torch.Generator().manual_seed(seed)
        adapter.diff.data = torch.randn(adapter.diff.shape, generator=generator) * 0.05
        adapter.diff_b.data = torch.randn(adapter.diff_b.shape, generator=generator) * 0.05
        return adapter

    return make


@pytest.mark.parametrize(("out", "wide"), [(32, 8), (320, 8)])
def test_the_file_holds_the_difference_exactly(learned, out, wide):
    adapter = learned(torch.nn.Conv2d(wide, out, 3, padding=1))
    tensors = adapter.file_tensors()
    up, down = tensors["lora_up.weight"], tensors["lora_down.weight"]
    assert tensors["alpha"] == down.shape[0] == min(out, wide * 9)
    assert tensors["reshape_weight"].tolist() == [out, wide, 3, 3]
    product = (up.flatten(1) @ down.flatten(1)).view(out, wide, 3, 3)
    torch.testing.assert_close(product, adapter.diff, rtol=0, atol=0)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", ["lora first", "condition first"])
def test_the_stock_loader_on_the_plain_checkpoint_is_as_ours(
    order, strength, eps_model, host, learned, sample, condition
):
    import comfy.sd

    adapter = learned(torch.nn.Conv2d(8, 32, 3, padding=1))
    lora = {f"lora_unet_input_blocks_0_0.{name}": tensor for name, tensor in adapter.file_tensors().items()}

    def load(model):
        return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]

    wide = host.widen(load(eps_model)) if order == "lora first" else load(host.widen(eps_model))
    expected = host.widen(eps_model)
    with host.training(expected) as network:
        layer = network.module.get_submodule("input_blocks.0.0")
        weight = layer.weight + strength * adapter.diff.detach()
        bias = layer.bias + strength * adapter.diff_b.detach()
    with host.training(wide) as network:
        layer = network.module.get_submodule("input_blocks.0.0")
        torch.testing.assert_close(layer.weight, weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer.bias, bias, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(sample(wide, condition)).all()


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_our_loader_adds_the_condition_and_samples_the_same(
    dtype, eps_model, host, learned, sample, condition, node, pack, tmp_path
):
    import importlib

    import comfy.sd

    files = importlib.import_module(f"{pack.__name__}.d2f_data.files.lora_file")
    adapter = learned(torch.nn.Conv2d(8, 32, 3, padding=1))
    tensors = {f"lora_unet_input_blocks_0_0.{name}": tensor for name, tensor in adapter.file_tensors().items()}
    alignment = host.alignment_of(eps_model)
    facts = files.LoraFacts(
        objective="diff2flow", prediction="eps", schedule=schedule_fingerprint(alignment.schedule),
        start="noise", shift=1.0, base="", base_model=host.model_name(eps_model), steps=1, rank=0, alpha=0.0,
        kind="lora", training={}, condition="image",
    )  # fmt: skip
    path = tmp_path / "depth.safetensors"
    files.save_lora(path, files.LoraModel(tensors, facts), "", dtype)
    read = files.load_lora(path)
    assert read.facts.condition == "image"
    assert read["lora_unet_input_blocks_0_0.reshape_weight"].tolist() == [32, 8, 3, 3]
    loaded, info = node("D2FLoadLora").execute(eps_model, "none", 1.0, read).args[:2]
    assert host.widened(loaded) and host.flow_settings(loaded) == ("noise", 1.0)
    assert "image condition added" in info
    stock = comfy.sd.load_lora_for_models(eps_model, None, dict(read), 1.0, 0)[0]
    theirs = sample(host.convert(host.widen(stock), "noise"), condition)
    ours = sample(loaded, condition)
    assert (ours - theirs).abs().max() <= 1e-5 * (theirs.max() - theirs.min())


def test_an_image_condition_on_a_model_without_one_is_refused(build, host, conditioning, table_levels):
    """Whatever samples it: the model's own sampler, a converted one, and one that has been cloned since."""
    import comfy.samplers

    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    applied = [host.with_condition(one, image) for one in conditioning]
    model = build()
    empty, euler = {"samples": torch.zeros(1, 4, 8, 8)}, comfy.samplers.ksampler("euler")
    for one in (model, host.convert(model), model.clone()):
        levels = host.stock_sigmas(one, "simple", 2)
        with pytest.raises(
            ValueError, match=r"'Apply Image Condition.*takes no image condition.*put 'Add Image Condit"
        ):
            host.sample(one, empty, *applied, 3.0, euler, levels, 1)
        assert torch.isfinite(host.sample(one, empty, *conditioning, 3.0, euler, levels, 1)["samples"]).all()
    wide = host.convert(host.widen(model))
    levels = host.stock_sigmas(wide, "simple", 2)
    plain = [[[text, {**options, "concat_latent_image": image}] for text, options in one] for one in conditioning]
    one, other = (host.sample(wide, empty, *each, 3.0, euler, levels, 1)["samples"] for each in (applied, plain))
    assert torch.equal(one, other)


def test_a_model_with_an_image_condition_is_not_saved_as_a_checkpoint(build, host, tmp_path):
    """The file would be taken for InstructPix2Pix."""
    import comfy.sd

    model = build()
    for wide in (host.widen(model), host.convert(host.widen(model)), host.widen(host.convert(model)).clone().clone()):
        with pytest.raises(ValueError, match=r"cannot be saved as a checkpoint.*'Save LoRA \(Diff2Flow\)' instead"):
            comfy.sd.save_checkpoint(str(tmp_path / "wide.safetensors"), wide)
    comfy.sd.save_checkpoint(str(tmp_path / "plain.safetensors"), model)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.safetensors"]
