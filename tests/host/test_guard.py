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
    with pytest.raises(ValueError, match=r"AddNoise before a sampler without noise is scaled twice.*remove AddNoise"):
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


@pytest.mark.parametrize("top", [0.9, 0.936, 0.98, 0.999])
def test_inversion_with_an_imperfect_network_is_not_taken_for_added_noise(host, eps_model, custom, no_noise, top):
    """FlipSigmas to s = 0.98 and back was once told to remove an AddNoise that is not there."""
    converted = host.convert(eps_model)
    latent = converted.model.process_latent_out(torch.randn(1, 4, 8, 8, generator=torch.manual_seed(1)))
    up = torch.linspace(0.03, top, 20)
    inverted = custom(converted, no_noise, up, latent)
    assert torch.isfinite(custom(converted, no_noise, up.flip(0), inverted)).all()


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


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dopri5", "ode euler"])
def test_sigmas_of_a_diffusion_model_are_the_same_noise_levels(
    host, node, model, converted, stock, conditioning, caplog, sampler
):
    """Align Your Steps knows no model: its sigmas, 14.6 to 0, once gave 1.03 to 2.8 of the right deviation."""
    import comfy.samplers

    sigmas = stock("align_your_steps", "AlignYourStepsScheduler")().execute("SD1", 10, 1.0).result[0]
    latent = {"samples": torch.zeros(2, 4, 24, 24)}
    solver = {"dopri5": {"solver": "dopri5"}, "ode euler": {"solver": "euler"}}.get(sampler)
    ours = node("D2FSampler").execute(solver).result[0] if solver else comfy.samplers.sampler_object(sampler)
    theirs = comfy.samplers.sampler_object({"dopri5": "heun", "ode euler": "euler"}.get(sampler, sampler))
    expected = host.sample(model, latent, *conditioning, 1.0, theirs, sigmas, 3)["samples"]
    found = host.sample(converted, latent, *conditioning, 1.0, ours, sigmas, 3)["samples"]
    assert float(found.std() / expected.std()) == pytest.approx(1, abs=0.05 if sampler == "dopri5" else 0.02)
    remarks = [record.getMessage() for record in caplog.records if record.name == "diff2flow"]
    assert any("up to 14.6" in remark and "the same noise levels of the flow" in remark for remark in remarks)


@pytest.mark.parametrize("bad", [[0.9, float("nan"), 0.0], [float("inf"), 1.0, 0.0], [0.9, -0.1]])
@pytest.mark.parametrize("ode", [True, False])
def test_sigmas_that_are_no_levels_are_named(host, node, converted, sample, bad, ode):
    sampler = node("D2FSampler").execute({"solver": "euler"}).result[0] if ode else "euler"
    with pytest.raises(ValueError, match=r"sigmas of this run must be numbers from 0 up, but are .*; correct the node"):
        sample(converted, torch.tensor(bad), sampler)


@pytest.mark.parametrize("solver", ["euler", "dopri5"])
@pytest.mark.parametrize("bad", [[0.9, 0.5, 0.5, 0.0], [0.9, 0.3, 0.5, 0.0]])
def test_the_ode_sampler_refuses_sigmas_that_do_not_fall(node, converted, sample, solver, bad):
    """Adaptive solvers once took the ends of such a list only."""
    sampler = node("D2FSampler").execute({"solver": solver}).result[0]
    with pytest.raises(ValueError, match=r"sigmas that fall at every step .* but got 0.9, .*choose another scheduler"):
        sample(converted, torch.tensor(bad), sampler)


def test_the_ode_sampler_on_a_native_flow_model_refuses_sigmas_of_a_diffusion(node, build, sample):
    sampler = node("D2FSampler").execute({"solver": "euler"}).result[0]
    with pytest.raises(ValueError, match=r"between 0 and 1, but these are 14.6, 1, 0; take them from 'Flow Scheduler"):
        sample(build(flow=True), torch.tensor([14.6, 1.0, 0.0]), sampler)
