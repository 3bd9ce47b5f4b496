"""Every sampler of the host on a converted model, judged on Gaussian data: there the right answer is known."""

import logging
import warnings

import pytest
import torch

DATA_STD = 0.5
# Wrong on flow models in the host itself; the pack warns of them.
VARIANCE_EXPLODING = {"ddpm", "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp"}


@pytest.fixture(scope="module")
def original(gaussian):
    return gaussian("EPS", DATA_STD)


@pytest.fixture(scope="module")
def converted(host, original):
    return host.convert(original)


@pytest.fixture
def run(host, conditioning):
    """`run(model, sampler, steps)` -> latents of the model's own scale, from the noise of seed 7."""
    import comfy.samplers

    def sample(model, sampler, steps=24):
        levels = host.stock_sigmas(model, "normal", steps)
        sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        latent = {"samples": torch.zeros(2, 4, 24, 24)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the host's own, of samplers with Brownian noise
            out = host.sample(model, latent, *conditioning, 3.0, sampler, levels, 7)["samples"]
        return model.model.process_latent_in(out)

    return sample


def test_every_sampler_gives_the_deviation_that_it_gives_unconverted(run, original, converted, caplog):
    import comfy.samplers

    assert len(comfy.samplers.SAMPLER_NAMES) >= 40
    wrong, warned = {}, set()
    for name in comfy.samplers.SAMPLER_NAMES:
        caplog.clear()
        latents = run(converted, name)
        ratio = float(latents.std() / run(original, name).std())
        if not (torch.isfinite(latents).all() and abs(ratio - 1) < 0.08):
            wrong[name] = ratio
        if any("variance exploding" in record.getMessage() for record in caplog.records):
            warned.add(name)
    assert set(wrong) == warned == VARIANCE_EXPLODING & set(comfy.samplers.SAMPLER_NAMES)


@pytest.mark.parametrize("model_type", ["EPS", "V_PREDICTION"])
@pytest.mark.parametrize("sampler, bound", [("euler", 0.15), ("heun", 0.01), ("dpm_2", 0.02), ("dpmpp_2m", 0.15)])
def test_deterministic_samplers_approach_the_exact_answer(host, gaussian, run, model_type, sampler, bound):
    converted = host.convert(gaussian(model_type, DATA_STD))
    s = host.sampling_of(converted).sigma_max
    noise = torch.randn(2, 4, 24, 24, generator=torch.manual_seed(7))
    state = noise * (s**2 + (1 - s) ** 2).sqrt()
    exact = state * DATA_STD / ((1 - s) ** 2 * DATA_STD**2 + s**2).sqrt()
    errors = [float((run(converted, sampler, steps) - exact).abs().max() / exact.std()) for steps in (24, 96)]
    assert errors[1] < bound
    assert errors[1] < errors[0] / 2.5


def test_the_start_from_noise_ends_at_the_same_deviation(host, original, run):
    assert float(run(host.convert(original, "noise"), "heun", 48).std()) == pytest.approx(DATA_STD, rel=0.02)


@pytest.mark.parametrize("module, node, arguments, name", [
    ("model_advanced", "RescaleCFG", (0.7,), "RescaleCFG"),
    ("sag", "SelfAttentionGuidance", (0.5, 2.0), "Self-Attention Guidance"),
    ("eps", "EpsilonScaling", (1.005,), "Epsilon Scaling"),
])  # fmt: skip
@pytest.mark.parametrize("patched_first", [True, False])
def test_cfg_patches_with_variance_exploding_arithmetic_are_warned_of(
    host, eps_model, stock, sample, table_levels, caplog, module, node, arguments, name, patched_first
):
    try:
        cls = stock(module, node)
    except ModuleNotFoundError:
        pytest.skip(f"this ComfyUI has no {node}")

    def patch(model):
        out = cls().patch(model, *arguments) if hasattr(cls, "patch") else cls.execute(model, *arguments).result
        return out[0]

    ve = table_levels(eps_model, 2)
    model = host.convert(patch(eps_model)) if patched_first else patch(host.convert(eps_model))
    sample(model, ve / (1 + ve))
    assert [record.levelno for record in caplog.records if name in record.getMessage()] == [logging.WARNING]


@pytest.mark.parametrize("version, warns", [("alternative", True), ("regular", False)])
def test_euler_cfg_pp_in_its_alternative_version_is_warned_of(converted, stock, run, caplog, version, warns):
    sampler = stock("advanced_samplers", "SamplerEulerCFGpp").execute(version).result[0]
    run(converted, sampler, 2)
    assert any("SamplerEulerCFG++" in record.getMessage() for record in caplog.records) is warns


def test_upscaling_lcm_is_warned_of(converted, stock, run, caplog):
    sampler = stock("advanced_samplers", "SamplerLCMUpscale").execute(1.5, -1, "bilinear").result[0]
    run(converted, sampler, 3)
    assert any("SamplerLCMUpscale" in record.getMessage() for record in caplog.records)


def test_an_unconverted_model_is_never_warned_of(original, run, caplog):
    for sampler in VARIANCE_EXPLODING - {"res_multistep_ancestral_cfg_pp"}:
        run(original, sampler, 2)
    assert not [record for record in caplog.records if record.name == "diff2flow"]
