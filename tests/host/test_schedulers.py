"""Every scheduler of the host works on the converted model: its levels are finite, descend and end at 0."""

import pytest
import torch

SETTINGS = [("t_min", 1.0, False), ("noise", 1.0, False), ("t_min", 3.0, False), ("noise", 3.0, True)]


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda setting: "-".join(map(str, setting)))
def converted(host, build, stock_sampling, request):
    start, shift, zsnr = request.param
    model = build("V_PREDICTION")
    return host.convert(stock_sampling(model, "v_prediction", True) if zsnr else model, start, shift)


@pytest.fixture(scope="module")
def sampling(host, converted):
    return host.sampling_of(converted)


def check(levels, length):
    assert levels.dtype == torch.float32
    assert levels.shape == (length,)
    assert torch.isfinite(levels).all()
    assert (levels.diff() < 0).all()
    assert levels[0] <= 1
    assert levels[-1] == 0


# ddim_uniform takes every k-th timestep from 1, so its count may differ; beta drops repeated timesteps.
LENGTHS = {"ddim_uniform": {2: 3, 7: 9, 20: 21, 50: 51}}


@pytest.mark.parametrize("steps", [2, 7, 20, 50])
def test_every_stock_scheduler(host, converted, sampling, steps):
    import comfy.samplers

    assert len(comfy.samplers.SCHEDULER_NAMES) >= 9
    for name in comfy.samplers.SCHEDULER_NAMES:
        levels = host.stock_sigmas(converted, name, steps)
        check(levels, LENGTHS.get(name, {}).get(steps, steps + 1))
        if name != "ddim_uniform":
            assert torch.allclose(levels[0], sampling.sigma_max, atol=1e-6), name


@pytest.mark.parametrize("steps, denoise", [(1, 1.0), (4, 1.0), (3, 0.5)])
def test_sd_turbo_scheduler_asks_with_integers(converted, stock, sampling, steps, denoise):
    levels = stock("custom_sampler", "SDTurboScheduler").execute(converted, steps, denoise).result[0]
    check(levels, steps + 1)
    start = 10 - int(10 * denoise)
    expected = [float(sampling.sigma(torch.tensor(float(100 * (10 - start - i) - 1)))) for i in range(steps)]
    assert levels[:-1].tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("node, arguments", [
    ("BasicScheduler", ("normal", 6, 0.5)),
    ("BetaSamplingScheduler", (6, 0.6, 0.6)),
])  # fmt: skip
def test_scheduler_nodes_that_take_the_model(converted, stock, node, arguments):
    check(stock("custom_sampler", node).execute(converted, *arguments).result[0], 7)


def test_table_and_its_ends(sampling):
    assert sampling.sigmas.shape == (1000,)
    assert (sampling.sigmas.diff() > 0).all()
    assert 0 < sampling.sigma_min < sampling.sigma_max <= 1
    assert sampling.sigma_max.ndim == sampling.sigma_min.ndim == 0
    assert bool(sampling.sigma_max == 1) is (sampling.start == "noise")
    assert float(sampling.sigma_min) == pytest.approx(1 - 0.97164, abs=1e-4)


def test_shapes_and_dtypes_of_sigma_and_timestep(sampling):
    for timestep in (torch.tensor(500), torch.tensor(500.0), torch.tensor(500, dtype=torch.int32)):
        assert sampling.sigma(timestep).shape == ()
        assert sampling.sigma(timestep) == sampling.sigmas[500]
    for shape in ((3,), (2, 1, 1, 1)):
        assert sampling.sigma(torch.full(shape, 999)).shape == shape
        assert sampling.timestep(torch.full(shape, 0.5)).shape == shape
    assert sampling.timestep(torch.tensor(0.5)).dtype == torch.float32
    assert sampling.timestep(torch.tensor(0.5, dtype=torch.float64)).dtype == torch.float32


def test_timesteps_outside_of_the_table_are_its_ends(sampling):
    assert sampling.sigma(torch.tensor(-5.0)) == sampling.sigma_min
    assert sampling.sigma(torch.tensor(2000.0)) == sampling.sigma_max
    assert sampling.timestep(torch.tensor(0.0)) == 0
    assert sampling.timestep(torch.tensor(1.0)) == 999


def test_without_a_shift_timestep_and_sigma_are_inverse(host, eps_model):
    sampling = host.sampling_of(host.convert(eps_model))
    timesteps = torch.linspace(0, 999, 331)
    assert torch.allclose(sampling.timestep(sampling.sigma(timesteps)), timesteps, atol=2e-3)
    rows = torch.arange(1000)
    assert torch.equal(sampling.timestep(sampling.sigmas).round().long(), rows)


def test_shift_moves_levels_to_noise_and_keeps_the_ends(host, eps_model):
    plain, shifted = (host.sampling_of(host.convert(eps_model, shift=shift)).sigmas for shift in (1.0, 3.0))
    assert torch.allclose(plain[[0, -1]], shifted[[0, -1]], atol=1e-7)
    assert (shifted[1:-1] > plain[1:-1]).all()


def test_shift_never_touches_what_the_network_is_told(host, eps_model):
    """A level means the same noise whatever the shift: only the choice of levels moves."""
    plain, shifted = (host.sampling_of(host.convert(eps_model, shift=shift)) for shift in (1.0, 3.0))
    levels = torch.linspace(0.03, 0.93, 50)
    assert torch.equal(plain.timestep(levels), shifted.timestep(levels))


def test_percents_descend_from_one_to_zero(sampling):
    percents = [i / 200 for i in range(201)]
    levels = [sampling.percent_to_sigma(percent) for percent in percents]
    assert all(type(level) is float for level in levels)
    assert (levels[0], levels[-1]) == (1.0, 0.0)
    assert all(1.0 >= high > low for high, low in zip(levels[:-1], levels[1:], strict=True))
    assert (sampling.percent_to_sigma(-1.0), sampling.percent_to_sigma(2.0)) == (1.0, 0.0)


def test_percents_are_those_of_the_unconverted_model(host, eps_model):
    before, after = host.sampling_of(eps_model), host.sampling_of(host.convert(eps_model))
    for percent in (0.001, 0.25, 0.5, 0.9, 0.999):
        ve = before.percent_to_sigma(percent)
        assert after.percent_to_sigma(percent) == pytest.approx(ve / (1 + ve), abs=1e-6)


def test_percent_to_sigma_node(converted, stock, sampling):
    node = stock("custom_sampler", "SamplingPercentToSigma").execute
    assert node(converted, 0.0, False).result[0] == 1.0
    assert node(converted, 0.0, True).result[0] == sampling.sigma_max.item()
    assert node(converted, 1.0, True).result[0] == sampling.sigma_min.item()
