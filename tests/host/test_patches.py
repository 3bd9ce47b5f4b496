"""Every node of the host that patches a MODEL, before and after the conversion: it acts as on the diffusion model."""

import logging

import pytest
import torch

STEPS = 6
# Compiling takes minutes here and changes no result. The caches need more steps: see below.
LEFT_OUT = {"TorchCompileModel", "EasyCacheNode", "LazyCacheNode"}


@pytest.fixture
def run(host, conditioning):
    """`run(model)` -> latents of stock Euler at rows of the table, CFG 4."""
    import comfy.samplers

    def sample(model, sampler="euler", steps=STEPS):
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        latent = {"samples": torch.zeros(2, 4, 16, 16)}
        sampler = comfy.samplers.sampler_object(sampler)
        torch.manual_seed(0)  # some patches draw from the global generator
        return host.sample(model, latent, *conditioning, 4.0, sampler, sigmas, 3)["samples"]

    return sample


def distance(one, other):
    return float((one - other).abs().max() / (other.max() - other.min()))


def test_every_patch_acts_on_both_sides_of_the_conversion_as_unconverted(host, eps_model, patch_nodes, run, caplog):
    plain, wrong, acting, nodes = run(eps_model), {}, set(), patch_nodes.find()
    for name in nodes.keys() - LEFT_OUT:
        # Windows that end within the run, so that it matters in which sigmas they are.
        window = {"start_percent": 0.1, "end_percent": 0.6}
        try:
            patched = patch_nodes.put(nodes[name], eps_model, **window)
            expected = run(patched)
        except Exception:  # made for another kind of model
            continue
        if "model_sampling" in patched.object_patches:  # refused after the conversion: tested in test_guard
            continue
        if distance(expected, plain) > 1e-4:
            acting.add(name)
        before = run(host.convert(patched))
        after = run(patch_nodes.put(nodes[name], host.convert(eps_model), **window))
        for side, latents in (("before", before), ("after", after)):
            if not distance(latents, expected) < 1e-3:
                wrong[name, side] = (distance(latents, expected), distance(expected, plain))
    assert wrong == {}
    assert acting >= {"RescaleCFG", "EpsilonScaling", "SelfAttentionGuidance", "PatchModelAddDownscale"} & nodes.keys()
    assert len(acting) >= 12
    assert [record.getMessage() for record in caplog.records if record.name == "diff2flow"] == []


def rescale(scale, sigma, x, x0):
    """A CFG function's arithmetic that is right for variance exploding states only: x0 of a scaled noise."""
    return x - scale * (x - x0) * (1 + 0 * sigma)


class AsTheHostIs:
    """A CFG function that knows one kind of arithmetic."""

    def patch(self, model, scale):
        def scaled(args):
            return rescale(scale, args["sigma"].reshape(-1, 1, 1, 1), args["input"], args["denoised"])

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(scaled)
        return patched


class AsTheHostRepairedIt:
    """The same for both kinds of models: it looks at the MODEL that it is given, as newer hosts' RescaleCFG does."""

    def patch(self, model, scale):
        import comfy.model_sampling

        is_flow = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)

        def scaled(args):
            x, sigma, x0 = args["input"], args["sigma"].reshape(-1, 1, 1, 1), args["denoised"]
            if is_flow:
                x, sigma = x / (1 - sigma), sigma / (1 - sigma)
            return rescale(scale, sigma, x, x0)

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(scaled)
        return patched


class AsTheHostLooksWhenCalled:
    """The same, looking at the model that samples, as TemporalScoreRescaling does."""

    def patch(self, model, scale):
        import comfy.model_sampling

        def scaled(args):
            x, sigma, x0 = args["input"], args["sigma"].reshape(-1, 1, 1, 1), args["denoised"]
            sampling = args["model"].current_patcher.get_model_object("model_sampling")
            if isinstance(sampling, comfy.model_sampling.CONST):
                x, sigma = x / (1 - sigma), sigma / (1 - sigma)
            return rescale(scale, sigma, x, x0)

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(scaled)
        return patched


class AsksTheNetworkItself:
    """A CFG function that calls the network once more, by itself."""

    def patch(self, model, scale):
        def mixed(args):
            x, sigma = args["input"], args["sigma"]
            again = args["model"].apply_model(0.5 * x, sigma, c_crossattn=torch.ones(len(x), 7, 16))
            return torch.lerp(args["denoised"], again, scale)

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(mixed)
        return patched


@pytest.mark.parametrize("kind", [AsTheHostIs, AsTheHostRepairedIt, AsTheHostLooksWhenCalled, AsksTheNetworkItself])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddpm"])
def test_cfg_functions_of_old_and_repaired_hosts_are_right_on_both_sides(host, eps_model, run, kind, sampler):
    # The classes of a test are in no module: what made a function is looked up by its qualified name.
    patch = kind().patch
    expected = run(patch(eps_model, 0.9), sampler)
    assert distance(expected, run(eps_model, sampler)) > 0.01
    assert distance(run(host.convert(patch(eps_model, 0.9)), sampler), expected) < 1e-3
    assert distance(run(patch(host.convert(eps_model), 0.9), sampler), expected) < 1e-3


def test_functions_are_called_in_their_coordinates_under_the_ode_sampler_too(host, eps_model, run, node, conditioning):
    """It runs in s; before the conversion a window and a CFG function were made for sigma_ve."""
    flow = node("D2FSampler").execute({"solver": "euler"}).result[0]
    for patch in (lambda model: AsTheHostIs().patch(model, 0.9), watch_window):
        expected = run(patch(eps_model))
        converted = host.convert(patch(eps_model))
        sigmas = host.stock_sigmas(converted, "simple", STEPS)
        latent = {"samples": torch.zeros(2, 4, 16, 16)}
        found = host.sample(converted, latent, *conditioning, 4.0, flow, sigmas, 3)["samples"]
        assert distance(found, expected) < 1e-3


def watch_window(model):
    """A MODEL with a wrapper that acts from 20 % to 60 %, computed when it is put on, as CFG Override does."""
    import comfy.patcher_extension

    sampling = model.get_model_object("model_sampling")
    high, low = sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.6)

    def window(executor, x, timestep, *args):
        x0 = executor(x, timestep, *args)
        return 0.5 * x0 if low <= float(timestep[0]) <= high else x0

    patched = model.clone()
    patched.add_wrapper(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, window)
    return patched


@pytest.mark.parametrize("name", ["EasyCacheNode", "LazyCacheNode"])
@pytest.mark.parametrize("loaded_before, start, end", [("original", 0.1, 0.9), ("converted", 0.3, 0.6)])
def test_caches_of_steps_skip_those_that_they_skip_unconverted(
    host, eps_model, stock, run, caplog, name, loaded_before, start, end
):
    """The host takes their window of sigmas from the model that was loaded last."""
    try:
        cache = stock("easycache", name).execute
    except (ModuleNotFoundError, AttributeError):
        pytest.skip(f"this ComfyUI has no {name}")
    settings, converted = (0.5, start, end, False), host.convert(eps_model)

    def skipped(model):
        run({"original": eps_model, "converted": host.convert(eps_model)}[loaded_before])
        caplog.clear()
        with caplog.at_level(logging.INFO):
            latents = run(model, steps=12)
        [line] = [one.getMessage() for one in caplog.records if "- skipped" in one.getMessage()]
        assert not [one for one in caplog.records if one.name == "diff2flow"]
        return line, latents

    run(eps_model)
    with caplog.at_level(logging.INFO):
        expected = run(cache(eps_model, *settings).result[0], steps=12)
    [line] = [one.getMessage() for one in caplog.records if "- skipped" in one.getMessage()]
    assert "skipped 0/" not in line and distance(expected, run(eps_model, steps=12)) > 1e-3
    for model in (cache(converted, *settings).result[0], host.convert(cache(eps_model, *settings).result[0])):
        found, latents = skipped(model)
        assert found == line and distance(latents, expected) < 1e-3


def test_what_is_put_on_the_conversion_stays_off_the_original(host, eps_model, run):
    """The functions of the original are wrapped in the clone alone."""
    patched = AsTheHostIs().patch(eps_model, 0.9)
    functions = patched.model_options["sampler_post_cfg_function"]
    before, expected = list(functions), run(patched)
    run(host.convert(patched))
    assert patched.model_options["sampler_post_cfg_function"] == before
    assert torch.equal(run(patched), expected)
