"""Convert to Flow Matching reads the schedule and prediction type in force, and changes nothing that clones share."""

import pytest
import torch

PREDICTIONS = {"EPS": "eps", "V_PREDICTION": "v"}


def latents(model, host, sample, table_levels):
    ve = table_levels(model, 4)
    return sample(model, ve / (1 + ve) if host.is_flow(model) else ve)


@pytest.mark.parametrize("model_type", PREDICTIONS)
def test_schedule_and_prediction_are_the_models_own(host, build, model_type):
    model = build(model_type)
    sampling = host.sampling_of(host.convert(model))
    ve = host.sampling_of(model).sigmas
    assert sampling.alignment.prediction == PREDICTIONS[model_type]
    assert torch.allclose(sampling.sigmas, ve / (1 + ve), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind, prediction", [("eps", "eps"), ("v_prediction", "v"), ("x0", "x0")])
@pytest.mark.parametrize("zsnr", [False, True])
def test_a_stock_modelsampling_patch_before_it_counts(host, eps_model, stock_sampling, kind, prediction, zsnr):
    patched = stock_sampling(eps_model, kind, zsnr)
    sampling = host.sampling_of(host.convert(patched))
    assert sampling.alignment.prediction == prediction
    assert sampling.zsnr is zsnr
    ve = host.sampling_of(patched).sigmas
    assert torch.allclose(sampling.sigmas, ve / (1 + ve), rtol=1e-6, atol=0)
    assert (float(sampling.sigma_max) > 0.999) is zsnr


def test_it_reads_the_clones_schedule_not_the_loaded_one(host, eps_model, stock_sampling, sample, table_levels):
    patched = stock_sampling(eps_model, "v_prediction", zsnr=True)
    sample(eps_model, table_levels(eps_model, 2))
    assert eps_model.model.model_sampling is not host.sampling_of(patched)
    from_patched = host.sampling_of(host.convert(patched))
    assert from_patched.alignment.prediction == "v"

    sample(patched, table_levels(patched, 2))
    assert eps_model.model.model_sampling is host.sampling_of(patched)
    from_original = host.sampling_of(host.convert(eps_model))
    assert from_original.alignment.prediction == "eps"
    assert float(from_original.sigma_max) == pytest.approx(14.6146 / 15.6146, abs=1e-5)


def test_a_rescaled_v_model_makes_the_same_latents(host, eps_model, stock_sampling, sample, table_levels):
    """Identity (b) with zero terminal SNR: the noise patch in front is part of the model."""
    patched = stock_sampling(eps_model, "v_prediction", zsnr=True)
    stock = latents(patched, host, sample, table_levels)
    converted = host.convert(patched)
    ve = table_levels(patched, 4)
    flow = sample(converted, ve / (1 + ve))
    assert (stock - flow).abs().max() < 1e-3 * (stock.max() - stock.min())


def test_the_prediction_can_be_overridden(host, eps_model, stock_sampling, sample, table_levels):
    levels = table_levels(eps_model, 4)
    labelled = sample(host.convert(stock_sampling(eps_model, "v_prediction")), levels / (1 + levels))
    overridden = sample(host.convert(eps_model, prediction="v"), levels / (1 + levels))
    assert torch.equal(labelled, overridden)
    assert not torch.allclose(overridden, sample(host.convert(eps_model), levels / (1 + levels)))


def test_the_node_passes_its_options_on(host, node, eps_model):
    convert = node("D2FConvert").execute
    sampling = host.sampling_of(convert(eps_model, "noise", 3.0, "v").result[0])
    assert (sampling.start, sampling.shift, sampling.alignment.prediction) == ("noise", 3.0, "v")
    assert sampling.sigma_max == 1
    assert host.sampling_of(convert(eps_model, "t_min", 1.0, "auto").result[0]).alignment.prediction == "eps"


def test_the_start_from_noise_is_pure_noise(host, eps_model):
    sampling = host.sampling_of(host.convert(eps_model, "noise"))
    noise, latent = torch.randn(2, 4, 8, 8), torch.ones(2, 4, 8, 8)
    state = sampling.noise_scaling(torch.tensor(1.0), noise, torch.zeros_like(latent), max_denoise=True)
    assert torch.equal(state, noise)


def test_the_start_at_t_min_has_the_deviation_of_the_state(host, eps_model):
    """The host gives unit noise for the whole state; there it must get the norm of alpha and sigma."""
    sampling = host.sampling_of(host.convert(eps_model))
    s = sampling.sigma_max
    state = sampling.noise_scaling(s, torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), max_denoise=True)
    expected = (s**2 + (1 - s) ** 2).sqrt()
    assert torch.allclose(state, expected.expand_as(state), rtol=1e-6)
    assert torch.allclose(sampling.calculate_input(s, state), torch.ones_like(state), rtol=1e-6)


@pytest.mark.parametrize("model_type", PREDICTIONS)
@pytest.mark.parametrize("shape", [(2,), (2, 1, 1, 1), ()])
def test_a_network_call_costs_few_operations_on_a_device(host, build, fake_device, model_type, shape):
    """On torch's meta device, where waiting for a value raises; the second call finds the tables there."""
    sampling = host.sampling_of(host.convert(build(model_type)))
    sigma, x = torch.empty(shape, device="meta"), torch.empty(2, 4, 8, 8, device="meta")
    for device in (fake_device(waits=False), fake_device(waits=False)):
        with device:
            scaled, timestep = sampling.calculate_input(sigma, x), sampling.timestep(sigma)
            x0 = sampling.calculate_denoised(sigma, scaled, x)
    assert len(device.kernels) <= 16, device.kernels
    assert {one.dtype for one in (scaled, timestep, x0)} == {torch.float32} and timestep.shape == shape


def test_the_original_is_untouched(host, eps_model, sample, table_levels, fingerprint):
    levels = table_levels(eps_model, 4)
    before = sample(eps_model, levels)
    mark = fingerprint(eps_model)
    converted = host.convert(eps_model, shift=3.0)
    sample(converted, levels / (1 + levels))
    assert eps_model.object_patches == {}
    assert fingerprint(eps_model) == mark
    assert torch.equal(sample(eps_model, levels), before)


def test_patches_before_it_are_kept(host, eps_model):
    patched = eps_model.clone()
    patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"])
    patched.model_options["transformer_options"]["mark"] = 7
    converted = host.convert(patched)
    assert len(converted.model_options["sampler_post_cfg_function"]) == 1
    assert converted.model_options["transformer_options"]["mark"] == 7
    assert "model_sampling" not in patched.object_patches
