"""Velocity and x0 against closed-form Gaussian data, both ends, dtypes, shapes, errors."""

import dataclasses
import math

import pytest
import torch

from d2f_core import PREDICTIONS, FlowAlignment

POINTS = 513


def states(generator, count=POINTS):
    return 1.5 * torch.randn(count, 7, generator=generator, dtype=torch.float64)


def relative_error(value, exact):
    return float((value - exact).abs().max() / exact.abs().max())


def test_gaussian_data_inside_the_table(case, generator):
    t = torch.linspace(case.alignment.t_min, case.alignment.t_max, POINTS, dtype=torch.float64)
    x = states(generator)
    output = case.ask(x, t)
    x0, eps = case.data.flow(x, t)
    assert relative_error(case.alignment.denoised(output, x, t), x0) < 1e-9
    assert relative_error(case.alignment.velocity(output, x, t), x0 - eps) < 1e-9


def test_a_timestep_off_by_one_is_seen(case, generator):
    """The bar above has teeth: the ideal network asked one timestep later misses it."""
    t = torch.linspace(case.alignment.t_min, 0.9, POINTS, dtype=torch.float64)
    x = states(generator)
    shifted = case.network(case.alignment.to_diffusion(x, t), case.alignment.timestep(t) - 1)
    x0, _ = case.data.flow(x, t)
    assert relative_error(case.alignment.denoised(shifted, x, t), x0) > 1e-5


def test_finite_and_continuous_everywhere(case, generator):
    t = torch.linspace(0, 1, 4 * POINTS, dtype=torch.float64)
    x = states(generator, 1).expand(len(t), -1)
    for value in (case.alignment.velocity(case.ask(x, t), x, t), case.alignment.denoised(case.ask(x, t), x, t)):
        assert torch.isfinite(value).all()
        assert value.diff(dim=0).abs().max() < 0.05


@pytest.mark.parametrize("end", ["t_min", "t_max"])
def test_no_jump_at_the_ends_of_the_table(case, generator, end):
    edge = getattr(case.alignment, end)
    t = torch.tensor([math.nextafter(edge, 0.0), edge, math.nextafter(edge, 1.0)], dtype=torch.float64)
    x = states(generator, 1).expand(3, -1)
    output = case.ask(x, t)
    for value in (case.alignment.velocity(output, x, t), case.alignment.denoised(output, x, t)):
        assert value.diff(dim=0).abs().max() < 1e-9


def test_pure_noise_goes_in_with_unit_variance(case, generator):
    noise = torch.randn(4, 1000, generator=generator, dtype=torch.float64)
    assert torch.equal(case.alignment.to_diffusion(noise, 0.0), noise)
    output = case.ask(noise, torch.zeros(4, dtype=torch.float64))
    velocity = case.alignment.velocity(output, noise, 0.0)
    assert torch.isfinite(velocity).all()
    torch.testing.assert_close(velocity, case.alignment.denoised(output, noise, 0.0) - noise)


def test_data_comes_out_as_it_is(case, generator):
    x = states(generator, 4)
    output = case.ask(x, torch.ones(4, dtype=torch.float64))
    assert torch.equal(case.alignment.denoised(output, x, 1.0), x)
    assert torch.isfinite(case.alignment.velocity(output, x, 1.0)).all()


def test_below_t_min_the_terminal_row_is_used(sd, generator):
    """x0 from alpha_T and sigma_T, and velocity = (x0 - x_fm) / (1 - t)."""
    t, alpha, sigma = 0.02, 0.06826, math.sqrt(1 - 0.06826**2)
    x, output = states(generator, 2)
    x, output = x[None], output[None]
    x0 = (x / math.hypot(t, 1 - t) - sigma * output) / alpha
    torch.testing.assert_close(sd.denoised(output, x, t), x0, rtol=1e-3, atol=1e-3)
    exact = (sd.denoised(output, x, t) - x) / (1 - t)
    torch.testing.assert_close(sd.velocity(output, x, t), exact, rtol=1e-12, atol=1e-12)


def test_a_v_network_goes_on_above_t_max(v_case):
    """For data of unit variance it says 0, so x0 = alpha x_dm is exact; with alpha_0, sigma_0 it would be 2e-4 off."""
    data = dataclasses.replace(v_case.data, mean=0.0, std=1.0)
    case = dataclasses.replace(v_case, data=data, network=data.network("v", v_case.alphas_cumprod))
    t = torch.linspace(case.alignment.t_max, 1, POINTS, dtype=torch.float64)
    x = torch.hypot(t, 1 - t)[:, None]
    assert (case.alignment.denoised(case.ask(x, t), x, t) - data.flow(x, t)[0]).abs().max() < 1e-12


def test_velocity_is_x0_minus_eps_and_the_chord(case, generator):
    t = torch.rand(64, generator=generator, dtype=torch.float64).clamp(max=0.99)
    x, output = states(generator, 64), states(generator, 64)
    chord = (case.alignment.denoised(output, x, t) - x) / (1 - t[:, None])
    torch.testing.assert_close(case.alignment.velocity(output, x, t), chord, rtol=1e-8, atol=1e-8)


def test_gradients_are_finite_at_both_ends(case):
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    output = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    x = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    case.alignment.velocity(output, x, t).sum().backward()
    assert torch.isfinite(output.grad).all() and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 8), (3, 4, 8), (3, 4, 8, 8), (3, 4, 2, 8, 8)])
def test_dtypes_and_shapes(sd, generator, dtype, shape):
    x64, output64 = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    x, output, t = x64.to(dtype), output64.to(dtype), torch.tensor([0.1, 0.5, 0.95])
    for method in (sd.velocity, sd.denoised):
        value = method(output, x, t)
        assert value.dtype == dtype and value.shape == shape
        exact = method(output.double(), x.double(), t)
        assert relative_error(value.double(), exact) < 2 * torch.finfo(dtype).eps
    assert sd.to_diffusion(x, t).dtype == dtype


@pytest.mark.parametrize("t", [0.4, torch.tensor(0.4), torch.tensor([0.4]), torch.full((3,), 0.4).bfloat16()])
def test_ways_to_give_t(sd, generator, t):
    x, output = torch.randn(2, 3, 4, 5, generator=generator)
    value = sd.velocity(output, x, t)
    torch.testing.assert_close(value, sd.velocity(output, x, torch.full((3,), 0.4)), rtol=0.02, atol=0.02)


def test_empty_batch(sd):
    empty = torch.zeros(0, 4, 8, 8)
    assert sd.velocity(empty, empty, torch.zeros(0)).shape == empty.shape
    assert sd.denoised(empty, empty, 0.5).shape == empty.shape


@pytest.mark.parametrize(
    ("output", "x", "t", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), 0.5, "the model output has shape"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3), "one flow time for each item"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1), "one flow time for each item"),
        (torch.zeros(3), torch.zeros(3), torch.zeros(3), "batch dimension"),
        (torch.zeros(2, 3), torch.zeros(2, 3), 1.5, r"must be in \[0, 1\]"),
        (torch.zeros(2, 3), torch.zeros(2, 3), float("nan"), r"must be in \[0, 1\]"),
    ],
)
def test_bad_arguments_are_named(sd, output, x, t, words):
    with pytest.raises(ValueError, match=words):
        sd.velocity(output, x, t)


def test_unknown_prediction_is_named(sd):
    with pytest.raises(ValueError, match=r"'epsilon'.*'eps', 'v', 'x0'"):
        FlowAlignment(sd.schedule, "epsilon")
    assert list(PREDICTIONS) == ["eps", "v", "x0", "edm", "flow", "velocity"]
