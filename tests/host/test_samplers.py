"""Every sampler and every scheduler of the host on a converted model: what they give on the diffusion model."""

import warnings

import pytest
import torch

DATA_STD = 0.5
STEPS = 24
# It spaces sigma itself, and is made for flow models: linear in sigma_ve it gives noise on a diffusion model. That gets
# the same noise levels as SIGMAS.
FLOW_SCHEDULERS = {"linear_quadratic"}


@pytest.fixture(scope="module")
def original(gaussian):
    return gaussian("EPS", DATA_STD)


@pytest.fixture(scope="module")
def converted(host, original):
    return host.convert(original)


@pytest.fixture(scope="module")
def exact(original):
    """The diffusion model, with timesteps that are not rounded to whole ones, as those of the converted are not."""
    import comfy.model_sampling

    class Fractional(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        def timestep(self, sigma):
            log_sigma = sigma.log()
            high = torch.searchsorted(self.log_sigmas, log_sigma).clamp(1, len(self.log_sigmas) - 1)
            low, top = self.log_sigmas[high - 1], self.log_sigmas[high]
            return (high - 1 + (log_sigma - low) / (top - low)).clamp(0, len(self.log_sigmas) - 1)

    model = original.clone()
    model.add_object_patch("model_sampling", Fractional(model.model.model_config))
    return model


@pytest.fixture
def run(host, conditioning):
    """`run(model, sampler, sigmas)` -> latents of the model's own scale, from the noise of seed 7."""
    import comfy.samplers

    def sample(model, sampler, sigmas):
        sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        latent = {"samples": torch.zeros(2, 4, 24, 24)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the host's own, of samplers with Brownian noise
            out = host.sample(model, latent, *conditioning, 3.0, sampler, sigmas, 7)["samples"]
        return model.model.process_latent_in(out)

    return sample


def schedule(model, name, steps=STEPS):
    """What BasicScheduler and KSampler make of a scheduler for a model."""
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), name, steps)


def distance(one, other):
    """Greatest difference, as a fraction of the range."""
    return float((one - other).abs().max() / (other.max() - other.min()))


def schedulers():
    return ["simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "kl_optimal"]


def test_the_list_of_schedulers_is_the_hosts(comfy):
    import comfy.samplers

    assert set(comfy.samplers.SCHEDULER_NAMES) == set(schedulers()) | FLOW_SCHEDULERS


def in_both(original, converted, scheduler):
    """The sigmas of a scheduler for the converted and for the diffusion model, at the same noise levels."""
    ours = schedule(converted, scheduler)
    return ours, ours / (1 - ours) if scheduler in FLOW_SCHEDULERS else schedule(original, scheduler)


@pytest.mark.parametrize("scheduler", [*schedulers(), *FLOW_SCHEDULERS])
def test_every_sampler_gives_what_it_gives_on_the_diffusion_model(run, original, exact, converted, scheduler, caplog):
    """The deviation beside the stock model; the latents beside the one whose timesteps are not rounded."""
    import comfy.samplers

    assert len(comfy.samplers.SAMPLER_NAMES) >= 40
    ours, theirs = in_both(original, converted, scheduler)
    deviations, distances = {}, {}
    for name in comfy.samplers.SAMPLER_NAMES:
        latents = run(converted, name, ours)
        deviations[name] = float(latents.std() / run(original, name, theirs).std())
        distances[name] = distance(latents, run(exact, name, theirs))
    assert {name: ratio for name, ratio in deviations.items() if not abs(ratio - 1) < 0.02} == {}
    assert {name: far for name, far in distances.items() if not far < 1e-3} == {}
    assert [record for record in caplog.records if record.name == "diff2flow"] == []


@pytest.mark.parametrize("model_type", ["EPS", "V_PREDICTION"])
@pytest.mark.parametrize("sampler, bound", [("euler", 0.15), ("heun", 0.01), ("dpm_2", 0.02), ("dpmpp_2m", 0.15)])
def test_deterministic_samplers_approach_the_exact_answer(host, gaussian, run, model_type, sampler, bound):
    converted = host.convert(gaussian(model_type, DATA_STD))
    s = host.sampling_of(converted).sigma_max
    noise = torch.randn(2, 4, 24, 24, generator=torch.manual_seed(7))
    state = noise * (s**2 + (1 - s) ** 2).sqrt()
    exact = state * DATA_STD / ((1 - s) ** 2 * DATA_STD**2 + s**2).sqrt()
    errors = [
        float((run(converted, sampler, schedule(converted, "normal", steps)) - exact).abs().max() / exact.std())
        for steps in (24, 96)
    ]
    assert errors[1] < bound
    assert errors[1] < errors[0] / 2.5


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "ddpm"])
def test_the_start_from_noise_ends_at_the_same_deviation(host, original, run, sampler):
    model = host.convert(original, "noise")
    bound = 0.02 if sampler == "heun" else 0.15
    assert float(run(model, sampler, schedule(model, "normal", 48)).std()) == pytest.approx(DATA_STD, rel=bound)


def test_the_first_step_from_noise_is_the_flows(host, original, run, node):
    """At s = 1 sigma_ve is infinite; what is taken instead of it changes Euler's steps by less than 1e-4."""
    model = host.convert(original, "noise")
    flow = node("D2FSampler").execute({"solver": "euler"}).result[0]
    for steps in (1, 4):
        sigmas = torch.linspace(1, 0, steps + 1)
        assert distance(run(model, "euler", sigmas), run(model, flow, sigmas)) < 2e-4


def test_every_sampler_from_noise_ends_at_the_deviation_of_the_diffusion_model(host, original, run, part):
    """Those that are wrong in s run in its coordinates after the first step; the others have another error of steps."""
    import comfy.samplers

    model, stays = host.convert(original, "noise"), part("host.ve.samplers")._is_right_in_s
    ours, theirs, names = schedule(model, "normal"), schedule(original, "normal"), comfy.samplers.SAMPLER_NAMES
    found = {name: float(run(model, name, ours).std() / run(original, name, theirs).std()) for name in names}
    bounds = {name: 0.07 if stays(comfy.samplers.sampler_object(name).sampler_function) else 0.02 for name in found}
    assert {name: ratio for name, ratio in found.items() if not abs(ratio - 1) < bounds[name]} == {}
    assert len(found) >= 40 and set(bounds.values()) == {0.02, 0.07}


@pytest.mark.parametrize("sampler", ["ddpm", "res_multistep_ancestral"])
def test_samplers_that_are_wrong_in_s_are_right_from_noise(host, original, run, sampler):
    """In s they end at 1.34 and 1.44 of the deviation here."""
    latents = run(host.convert(original, "noise"), sampler, torch.linspace(1, 0, 97))
    assert float(latents.std()) == pytest.approx(DATA_STD, rel=0.05)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_first_step_from_noise_is_eulers_and_is_told_once(host, original, stock, node, conditioning, steps):
    """Euler of another name, which goes to VE coordinates: without guidance it is Euler in s, step by step."""
    import comfy.sample

    model, sigmas = host.convert(original, "noise"), torch.linspace(1, 0, steps + 1)
    flow = node("D2FSampler").execute({"solver": "euler"}).result[0]
    other = stock("advanced_samplers", "SamplerEulerCFGpp").execute("alternative").result[0]
    noise = torch.randn(2, 4, 8, 8, generator=torch.manual_seed(5))
    found = []
    for sampler in (flow, other):
        told: list[int] = []
        latents = comfy.sample.sample_custom(
            model, noise, 1.0, sampler, sigmas, *conditioning, torch.zeros_like(noise), disable_pbar=True,
            callback=lambda step, x0, x, total, told=told: told.append(step),
        )  # fmt: skip
        found.append(latents)
        assert told == list(range(steps))
    assert distance(found[1], found[0]) < 1e-4


@pytest.mark.parametrize("denoise", [0.3, 0.55, 0.97])
@pytest.mark.parametrize("scheduler", ["karras", "exponential", "kl_optimal", "normal", "simple"])
@pytest.mark.parametrize("start", ["t_min", "noise"])
def test_image_to_image_starts_where_it_starts_unconverted(host, original, conditioning, scheduler, denoise, start):
    """KSampler on the two models: `karras` at denoise 0.3 once changed the latent by 0.59 instead of 1.81."""
    import nodes

    if start == "noise" and denoise > 0.9:
        pytest.skip("that is the whole schedule, which starts at pure noise")
    converted = host.convert(original, start)
    latent = {"samples": torch.randn(1, 4, 24, 24, generator=torch.manual_seed(2))}
    settings = 3, 12, 2.0, "dpmpp_2m", scheduler, *conditioning, latent
    one, other = (nodes.common_ksampler(model, *settings, denoise)[0]["samples"] for model in (converted, original))
    assert float((other - latent["samples"]).std()) > 0.2
    assert distance(one, other) < 5e-3  # timesteps are rounded in the diffusion model


@pytest.mark.parametrize("scheduler", ["karras", "exponential", "kl_optimal", "beta"])
@pytest.mark.parametrize("pieces", [(0, 1), (0, 7), (3, 9), (4, 6)])
@pytest.mark.parametrize("start", ["t_min", "noise"])
def test_parts_of_a_schedule_are_at_the_levels_of_the_whole(host, original, part, scheduler, pieces, start):
    """KSampler Advanced and SplitSigmas run parts of a schedule, and each must meet the next."""
    flow_levels = part("host.ve.levels").flow_levels
    converted, (first, last) = host.convert(original, start), pieces
    ve = schedule(original, scheduler, 20)
    expected = ve / (1 + ve)
    if start == "noise":
        expected[0] = 1
    levels, remark = flow_levels(host.sampling_of(converted), schedule(converted, scheduler, 20)[first : last + 1])
    assert torch.allclose(levels, expected[first : last + 1], atol=1e-6)
    assert remark == ""


@pytest.mark.parametrize("begin", ["t_min", "noise"])
def test_no_other_schedule_is_taken_for_one_that_spaces_sigma(host, original, comfy, part, begin):
    import comfy.samplers

    flow_levels, converted = part("host.ve.levels").flow_levels, host.convert(original, begin)
    sampling, spacings = host.sampling_of(converted), part("host.ve.levels").SPACINGS
    for name in set(comfy.samplers.SCHEDULER_NAMES) - set(spacings):
        for steps in (2, 3, 4, 8, 13, 20, 24, 50, 150, 600):
            sigmas = schedule(converted, name, steps)
            for start in range(0, min(steps, 20), 3):
                for length in (2, 3, 5, steps + 1):
                    given = sigmas[start : start + length]
                    assert torch.equal(flow_levels(sampling, given)[0], given), (name, steps, start, length)


def test_a_spacing_that_goes_on_beyond_the_ends_is_no_schedule_of_this_model(host, converted, part):
    flow_levels, sampling = part("host.ve.levels").flow_levels, host.sampling_of(converted)
    high, low = (float(end) ** (1 / 7) for end in (sampling.sigma_max, sampling.sigma_min))
    for first in (-2, 95):
        places = torch.arange(first, first + 10, dtype=torch.float64) / 99
        given = ((high + places * (low - high)) ** 7).float()
        assert float(given.max()) <= 1 and torch.equal(flow_levels(sampling, given)[0], given)


def test_samplers_outside_of_the_menu_give_what_they_give_unconverted(run, exact, converted, stock):
    samplers = [
        stock("advanced_samplers", "SamplerEulerCFGpp").execute("alternative").result[0],
        stock("advanced_samplers", "SamplerEulerCFGpp").execute("regular").result[0],
        stock("advanced_samplers", "SamplerLCMUpscale").execute(1.5, -1, "bilinear").result[0],
        stock("custom_sampler", "SamplerDPMPP_2M_SDE").execute("midpoint", 1.0, 1.0, "cpu").result[0],
    ]
    for sampler in samplers:
        function = sampler.sampler_function
        ours, theirs = (run(model, sampler, schedule(model, "simple", 8)) for model in (converted, exact))
        assert distance(ours, theirs) < 1e-3
        assert sampler.sampler_function is function


def test_a_sampler_with_a_window_of_sigmas_keeps_it(run, exact, converted, stock):
    """SA Solver computes where it adds noise from the MODEL that it is given."""
    try:
        make = stock("custom_sampler", "SamplerSASolver").execute
    except AttributeError:
        pytest.skip("this ComfyUI has no SamplerSASolver")
    settings = 1.0, 0.2, 0.8, 1.0, 3, 4, False, False
    ours, theirs = (
        run(model, make(model, *settings).result[0], schedule(model, "simple")) for model in (converted, exact)
    )
    without = run(exact, make(exact, 0.0, *settings[1:]).result[0], schedule(exact, "simple"))
    assert distance(ours, theirs) < 1e-3
    assert distance(without, theirs) > 0.1
