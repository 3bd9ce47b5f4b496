"""The table, its interpolation and its inverse."""

import pytest
import torch

from d2f_core import NoiseSchedule
from d2f_core.schedule import ZERO_TERMINAL_ALPHAS_CUMPROD


def test_three_constructors_agree(alphas_cumprod):
    a = torch.where(alphas_cumprod == 0, ZERO_TERMINAL_ALPHAS_CUMPROD, alphas_cumprod)
    betas = 1 - a / torch.cat([a.new_ones(1), a[:-1]])
    one = NoiseSchedule.from_alphas_cumprod(alphas_cumprod).sigma_ve
    torch.testing.assert_close(one, NoiseSchedule.from_sigmas(((1 - a) / a).sqrt()).sigma_ve, rtol=1e-11, atol=0)
    torch.testing.assert_close(one, NoiseSchedule.from_betas(betas).sigma_ve, rtol=1e-7, atol=0)


def test_rows_are_the_timesteps(schedule):
    rows = torch.arange(len(schedule))
    assert torch.equal(schedule.log_sigma_at(rows), schedule.log_sigma)
    assert torch.equal(schedule.timestep_at(schedule.log_sigma), rows.double())


def test_between_rows_log_sigma_is_linear(schedule):
    middle = torch.arange(len(schedule) - 1) + 0.25
    expected = 0.75 * schedule.log_sigma[:-1] + 0.25 * schedule.log_sigma[1:]
    torch.testing.assert_close(schedule.log_sigma_at(middle), expected, rtol=1e-14, atol=1e-14)


def test_inverse_is_exact_and_ends_clamp(schedule):
    timestep = torch.linspace(0, len(schedule) - 1, 4321, dtype=torch.float64)
    assert (schedule.timestep_at(schedule.log_sigma_at(timestep)) - timestep).abs().max() < 1e-9
    outside = schedule.log_sigma_at(torch.tensor([-5.0, 2000.0]))
    assert torch.equal(outside, schedule.log_sigma[[0, -1]])
    assert schedule.timestep_at(torch.tensor([-100.0, 100.0])).tolist() == [0, len(schedule) - 1]


def test_sd_figures():
    from_betas = NoiseSchedule.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)
    assert from_betas.sigma_ve[-1].item() == pytest.approx(14.6146, abs=1e-4)
    assert from_betas.sigma_ve[0].item() == pytest.approx(0.029167, abs=1e-6)


def test_zero_terminal_snr_ends_where_comfyui_does():
    # sqrt((1 - a) / a) of ComfyUI's 4.8973451890853435e-08, which stands for a last alphas_cumprod of 0.
    schedule = NoiseSchedule.from_alphas_cumprod(torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64))
    assert schedule.sigma_ve[-1].item() == pytest.approx(4518.7636987, rel=1e-9)


@pytest.mark.parametrize(
    ("sigmas", "words"),
    [
        (torch.ones(2, 2), "one-dimensional"),
        (torch.ones(1), "at least 2 rows"),
        (torch.tensor([0.0, 1.0]), "not finite"),
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.tensor([1.0, 2.0, 2.0]), "row 2 is not noisier than row 1"),
        (torch.tensor([2.0, 1.0]), "ascending"),
    ],
)
def test_bad_tables_are_named(sigmas, words):
    with pytest.raises(ValueError, match=words):
        NoiseSchedule.from_sigmas(sigmas)


def test_the_table_is_a_copy():
    sigmas = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    schedule = NoiseSchedule.from_sigmas(sigmas)
    sigmas.fill_(9.0)
    assert schedule.sigma_ve[0].item() == pytest.approx(0.5)
