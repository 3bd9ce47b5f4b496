"""What would silently go wrong around a converted model: it works, or it is said."""

import pytest
import torch

STATE_LEVELS = [0.93, 0.8, 0.65, 0.55]


@pytest.fixture
def model(gaussian):
    return gaussian("EPS", 0.5)


@pytest.fixture
def converted(host, model):
    return host.convert(model)


@pytest.fixture
def custom(stock, conditioning):
    """`custom(model, noise node, sigmas, latent)` -> LATENT out of SamplerCustomAdvanced with stock euler."""
    nodes = {name: stock("custom_sampler", name).execute for name in ("CFGGuider", "SamplerCustomAdvanced")}

    def run(model, noise, sigmas, latent, sampler=None):
        import comfy.samplers

        guider = nodes["CFGGuider"](model, *conditioning, 1.0).result[0]
        sampler = sampler or comfy.samplers.ksampler("euler")
        out = nodes["SamplerCustomAdvanced"](noise, guider, sampler, sigmas, {"samples": latent})
        return out.result[0]["samples"]

    return run


@pytest.fixture
def no_noise(stock):
    return stock("custom_sampler", "DisableNoise").execute().result[0]


@pytest.fixture
def noise(stock):
    return stock("custom_sampler", "RandomNoise").execute(5).result[0]


@pytest.mark.parametrize("node, arguments, name", [
    ("ModelSamplingDiscrete", ("v_prediction", True), "ModelSamplingDiscrete"),
    ("ModelSamplingDiscrete", ("lcm", False), "ModelSamplingDiscreteDistilled"),
    ("ModelSamplingContinuousEDM", ("edm", 120.0, 0.002), "ModelSamplingContinuousEDM"),
    ("ModelSamplingSD3", (3.0,), "ModelSamplingDiscreteFlow"),
    ("ModelSamplingFlux", (1.15, 0.5, 1024, 1024), "ModelSamplingFlux"),
])  # fmt: skip
def test_a_modelsampling_node_after_the_converter_is_said(
    host, eps_model, stock, sample, fingerprint, node, arguments, name
):
    replaced = stock("model_advanced", node)().patch(host.convert(eps_model), *arguments)[0]
    mark = fingerprint(eps_model)
    with pytest.raises(ValueError, match="after 'Convert to Flow Matching' replaced the conversion") as error:
        sample(replaced, torch.tensor([0.9, 0.0]))
    assert f"samples as {name})" in str(error.value)
    assert "before 'Convert to Flow Matching', or remove it" in str(error.value)
    assert fingerprint(eps_model) == mark


def test_a_node_that_rebuilds_the_sampling_object_is_said(host, eps_model, stock):
    try:
        node = stock("model_advanced", "ModelNoiseScale")
    except AttributeError:
        pytest.skip("this ComfyUI has no ModelNoiseScale")
    with pytest.raises(TypeError, match=r"after 'Convert to Flow Matching' \(ModelNoiseScale does this\).*remove"):
        node().patch(host.convert(eps_model), 8.0)


def test_patches_of_a_clone_further_on_keep_the_guard(host, eps_model, stock, sample):
    """The guard travels with clones, whatever else is patched in between."""
    clone = host.convert(eps_model).clone()
    clone.set_model_sampler_post_cfg_function(lambda args: args["denoised"])
    with pytest.raises(ValueError, match="replaced the conversion"):
        sample(stock("model_advanced", "ModelSamplingSD3")().patch(clone, 3.0)[0], torch.tensor([0.9, 0.0]))


@pytest.mark.parametrize("s", STATE_LEVELS)
@pytest.mark.parametrize("data_scale", [0.0, 1.0])
def test_add_noise_then_no_noise_is_scaled_twice_and_refused(
    host, converted, stock, custom, noise, no_noise, s, data_scale
):
    sigmas = torch.tensor([s, s / 2, 0.0])
    latent = torch.randn(2, 4, 16, 16, generator=torch.manual_seed(1))
    latent = converted.model.process_latent_out(latent * data_scale)
    noisy = stock("custom_sampler", "AddNoise").execute(converted, noise, sigmas, {"samples": latent}).result[0]
    with pytest.raises(ValueError, match=r"AddNoise before a sampler without noise is scaled twice.*Remove AddNoise"):
        custom(converted, no_noise, sigmas, noisy["samples"])


@pytest.mark.parametrize("s", STATE_LEVELS)
def test_a_state_that_left_the_sampler_goes_on_without_noise(host, converted, custom, noise, no_noise, s):
    """SplitSigmas: two samplers in a row equal one, and the guard lets the second start anywhere."""
    high, low = torch.tensor([0.935, (0.935 + s) / 2, s]), torch.tensor([s, s / 2, 0.02, 0.0])
    latent = torch.zeros(2, 4, 16, 16)
    whole = custom(converted, noise, torch.cat([high, low[1:]]), latent)
    halves = custom(converted, no_noise, low, custom(converted, noise, high, latent))
    assert torch.allclose(whole, halves, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("start", ["t_min", "noise"])
@pytest.mark.parametrize("pieces", [(0, 4), (0, 7), (3, 9)])
def test_ksampler_advanced_in_two_halves_is_one_run(host, eps_model, conditioning, start, pieces):
    import nodes

    sampler = nodes.KSamplerAdvanced().sample
    converted = host.convert(eps_model, start)
    first, split = pieces
    latent = {"samples": torch.randn(2, 4, 8, 8, generator=torch.manual_seed(2))}

    def run(latent, add_noise, begin, end, leftover):
        settings = 3, 10, 2.0, "euler", "normal", *conditioning
        return sampler(converted, add_noise, *settings, latent, begin, end, leftover)[0]

    whole = run(latent, "enable", first, 10, "disable")["samples"]
    halves = run(run(latent, "enable", first, split, "enable"), "disable", split, 10, "disable")["samples"]
    assert (whole - halves).abs().max() < 1e-4 * whole.abs().max()


def test_inversion_to_pure_noise_is_finite_and_comes_back(host, model, custom, no_noise):
    """CONST divides by 1 - s on the way out: at s = 1 the latents would be infinite."""
    converted = host.convert(model, "noise")
    latent = converted.model.process_latent_out(0.5 * torch.randn(2, 4, 16, 16, generator=torch.manual_seed(3)))
    up = torch.cat([torch.linspace(0.0, 0.99, 200), torch.ones(1)])
    inverted = custom(converted, no_noise, up[1:], latent)
    assert torch.isfinite(inverted).all()
    back = custom(converted, no_noise, up.flip(0), inverted)
    assert torch.isfinite(back).all()
    assert (back - latent).std() < 0.05 * latent.std()


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_inversion_with_the_ode_sampler_comes_back(host, node, model, custom, no_noise, method):
    converted = host.convert(model)
    solver = {"solver": method, **({"rtol": 1e-5, "atol": 1e-5, "max_nfe": 500} if method == "dopri5" else {})}
    sampler = node("D2FSampler").execute(solver).result[0]
    latent = converted.model.process_latent_out(0.5 * torch.randn(1, 4, 16, 16, generator=torch.manual_seed(3)))
    up = torch.linspace(0.03, 0.93, 100 if method == "euler" else 30)
    inverted = custom(converted, no_noise, up, latent, sampler)
    back = custom(converted, no_noise, up.flip(0), inverted, sampler)
    assert inverted.std() > 5 * latent.std()
    assert (back - latent).std() < (0.05 if method == "euler" else 2e-3) * latent.std()
