"""Schedules without a table, data of another deviation, native flow: against closed-form Gaussian data."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from d2f_core import (
    PREDICTIONS,
    ContinuousSchedule,
    FlowAlignment,
    FlowSchedule,
    FlowTime,
    Interpolant,
    NaiveAlignment,
    Objective,
    TimeDensity,
)

POINTS = 513
MEAN, STD = 0.7, 0.6  # of the data


def per_item(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def expected(x_fm: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """E[x0 | x_fm] and E[eps | x_fm] at flow times t, one per item."""
    t = per_item(t, x_fm)
    residual = (x_fm - t * MEAN) / ((t * STD) ** 2 + (1 - t) ** 2)
    return MEAN + t * STD**2 * residual, (1 - t) * residual


def diffusion_network(scale: str, prediction: str, sigma_data: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The ideal network in the words of Karras et al.: (c_in x, c_noise) -> F, and of Salimans and Ho with v = -F."""

    def network(x_in: Tensor, timestep: Tensor) -> Tensor:
        sigma = (4 * timestep).exp() if scale == "log" else (timestep * math.pi / 2).tan()
        sigma = per_item(sigma, x_in)
        x_ve = x_in * (sigma**2 + sigma_data**2).sqrt()
        x0 = MEAN + STD**2 / (STD**2 + sigma**2) * (x_ve - MEAN)
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
        answer = (x0 - c_skip * x_ve) / c_out
        return {"edm": answer, "v": -answer, "eps": (x_ve - x0) / sigma, "x0": x0}[prediction]

    return network


def flow_network(multiplier: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The ideal network of a native flow model: (x_fm, s multiplier) -> eps - x0."""

    def network(x: Tensor, timestep: Tensor) -> Tensor:
        x0, eps = expected(x, 1 - timestep / multiplier)
        return eps - x0

    return network


@dataclass(frozen=True)
class Case:
    alignment: FlowAlignment
    network: Callable[[Tensor, Tensor], Tensor]

    def ask(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(self.alignment.to_diffusion(x, t), self.alignment.timestep(t))


DIFFUSION = {
    "edm": ("log", "edm", 0.5, 0.002, 120.0),
    "edm of unit data": ("log", "edm", 1.0, 0.002, 80.0),
    "v over edm": ("log", "v", 1.0, 0.002, 120.0),
    "v of data 0.3": ("log", "v", 0.3, 0.01, 50.0),
    "eps over edm": ("log", "eps", 1.0, 0.002, 120.0),
    "eps of data 2": ("log", "eps", 2.0, 0.002, 120.0),
    "x0 over edm": ("log", "x0", 1.0, 0.002, 120.0),
    "x0 of data 0.5": ("log", "x0", 0.5, 0.002, 120.0),
    "continuous v": ("arctan", "v", 1.0, 0.03, 500.0),
}


@pytest.fixture(params=DIFFUSION)
def diffusion(request) -> Case:
    scale, prediction, sigma_data, low, high = DIFFUSION[request.param]
    alignment = FlowAlignment(ContinuousSchedule(scale, low, high), prediction, sigma_data)
    return Case(alignment, diffusion_network(scale, prediction, sigma_data))


@pytest.fixture(params=[1.0, 1000.0])
def flow(request) -> Case:
    return Case(FlowAlignment(FlowSchedule(request.param), "flow"), flow_network(request.param))


@pytest.fixture(params=[*DIFFUSION, 1.0, 1000.0])
def any_case(request) -> Case:
    if isinstance(request.param, float):
        return Case(FlowAlignment(FlowSchedule(request.param), "flow"), flow_network(request.param))
    scale, prediction, sigma_data, low, high = DIFFUSION[request.param]
    alignment = FlowAlignment(ContinuousSchedule(scale, low, high), prediction, sigma_data)
    return Case(alignment, diffusion_network(scale, prediction, sigma_data))


def states(generator, count=POINTS):
    return 1.5 * torch.randn(count, 7, generator=generator, dtype=torch.float64)


def relative_error(value, exact):
    return float((value - exact).abs().max() / exact.abs().max())


def inside(alignment):
    return torch.linspace(alignment.t_min, alignment.t_max, POINTS, dtype=torch.float64)


def test_gaussian_data_between_the_ends(any_case, generator):
    alignment, t, x = any_case.alignment, inside(any_case.alignment), states(generator)
    output = any_case.ask(x, t)
    x0, eps = expected(x, t)
    assert relative_error(alignment.denoised(output, x, t), x0) < 1e-9
    assert relative_error(alignment.velocity(output, x, t), x0 - eps) < 1e-9


def test_another_time_scale_is_seen(diffusion, generator):
    """The bar above has teeth: the ideal network asked at a timestep 0.1 % beside misses it."""
    t, x = inside(diffusion.alignment)[1:-1], states(generator)[1:-1]
    output = diffusion.network(diffusion.alignment.to_diffusion(x, t), 0.999 * diffusion.alignment.timestep(t))
    assert relative_error(diffusion.alignment.denoised(output, x, t), expected(x, t)[0]) > 1e-5


def test_ends():
    edm = FlowAlignment(ContinuousSchedule("log", 0.002, 120), "edm", 0.5)
    assert (edm.t_min, edm.t_max) == (pytest.approx(1 / 121, rel=1e-12), pytest.approx(1 / 1.002, rel=1e-12))
    native = FlowAlignment(FlowSchedule(1000.0), "flow")
    assert (native.t_min, native.t_max) == (0.0, 1.0)


def test_finite_and_continuous_everywhere(any_case, generator):
    alignment = any_case.alignment
    t = torch.linspace(0, 1, 4 * POINTS, dtype=torch.float64)
    x = states(generator, 1).expand(len(t), -1)
    output = any_case.ask(x, t)
    for value in (alignment.velocity(output, x, t), alignment.denoised(output, x, t)):
        assert torch.isfinite(value).all()
        assert value.diff(dim=0).abs().max() < 0.05
    assert (alignment.denoised(output, x, t)[-1] - x[-1]).abs().max() < 1e-12


@pytest.mark.parametrize("end", ["t_min", "t_max"])
def test_no_jump_at_the_ends(diffusion, generator, end):
    edge = getattr(diffusion.alignment, end)
    t = torch.tensor([math.nextafter(edge, 0.0), edge, math.nextafter(edge, 1.0)], dtype=torch.float64)
    x = states(generator, 1).expand(3, -1)
    output = diffusion.ask(x, t)
    for value in (diffusion.alignment.velocity(output, x, t), diffusion.alignment.denoised(output, x, t)):
        assert value.diff(dim=0).abs().max() < 1e-9


def test_the_network_sees_unit_variance(diffusion):
    """If the data has the deviation that it was scaled for."""
    t, d = torch.linspace(0, 1, POINTS, dtype=torch.float64), diffusion.alignment.sigma_data
    deviation = torch.hypot(t * d, 1 - t)[:, None]
    torch.testing.assert_close(diffusion.alignment.to_diffusion(deviation, t), torch.ones_like(deviation))


def test_round_trips(any_case, generator):
    alignment, t, x = any_case.alignment, inside(any_case.alignment), states(generator)
    assert (alignment.flow_time(alignment.timestep(t)) - t).abs().max() < 1e-12
    timestep = torch.linspace(alignment.schedule.first, alignment.schedule.last, POINTS, dtype=torch.float64)
    back = alignment.timestep(alignment.flow_time(timestep))
    assert (back - timestep).abs().max() < 1e-9 * max(1, alignment.schedule.last)
    torch.testing.assert_close(alignment.to_flow(alignment.to_diffusion(x, t), t), x, rtol=1e-14, atol=1e-14)
    beyond = torch.tensor([-1e9, 1e9], dtype=torch.float64)
    assert torch.equal(
        alignment.flow_time(beyond), torch.tensor([alignment.t_max, alignment.t_min], dtype=torch.float64)
    )


def test_the_target_is_what_the_ideal_answer_averages(any_case, generator):
    """The target of (x0, eps) put into the readings gives x0 and x0 - eps back."""
    alignment, t = any_case.alignment, inside(any_case.alignment)
    pair = Interpolant(states(generator), states(generator), t)
    output = alignment.target(pair.x0, pair.eps, t)
    torch.testing.assert_close(alignment.velocity(output, pair.x_fm, t), pair.x0 - pair.eps, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(alignment.denoised(output, pair.x_fm, t), pair.x0, rtol=1e-8, atol=1e-8)
    for name in ("diff2flow", "diffusion"):
        assert Objective(alignment, name).loss(output, pair).max() < 1e-15


def test_gradients_are_finite_at_both_ends(any_case):
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    output = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    x = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    any_case.alignment.velocity(output, x, t).sum().backward()
    assert torch.isfinite(output.grad).all() and torch.isfinite(x.grad).all()


def test_a_flow_network_is_shown_the_state_and_says_the_velocity(flow, generator):
    t, x = torch.linspace(0, 1, POINTS, dtype=torch.float64), states(generator)
    output = states(generator)
    assert torch.equal(flow.alignment.to_diffusion(x, t), x)
    assert torch.equal(flow.alignment.velocity(output, x, t), -output)
    torch.testing.assert_close(flow.alignment.denoised(output, x, t), x - (1 - t[:, None]) * output)
    torch.testing.assert_close(flow.alignment.timestep(t), (1 - t) * flow.alignment.schedule.multiplier)


def test_naive_flow_matching_is_native_flow_with_the_opposite_sign(sd, generator):
    naive, native = NaiveAlignment(sd.schedule, "eps"), FlowAlignment(FlowSchedule(1000.0), "flow")
    t, x, output = torch.linspace(0, 1, POINTS, dtype=torch.float64), states(generator), states(generator)
    assert torch.equal(naive.velocity(output, x, t), native.velocity(-output, x, t))
    assert torch.equal(naive.denoised(output, x, t), native.denoised(-output, x, t))
    early = t > 0.0011
    torch.testing.assert_close(naive.timestep(t)[early], native.timestep(t)[early])


@pytest.mark.parametrize("row", ["edm", "velocity"])
def test_rows_of_the_opposite_sign(row, generator):
    """Without the code under test: F = -v, and x0 - eps = -(eps - x0)."""
    other = {"edm": "v", "velocity": "flow"}[row]
    schedule = ContinuousSchedule("log", 0.002, 80) if row == "edm" else FlowSchedule(1.0)
    x, output, t = states(generator), states(generator), torch.rand(POINTS, generator=generator, dtype=torch.float64)
    for method in ("velocity", "denoised"):
        one, two = (getattr(FlowAlignment(schedule, name), method) for name in (row, other))
        assert torch.equal(one(output, x, t), two(-output, x, t))
    assert PREDICTIONS["velocity"].is_flow and not PREDICTIONS["edm"].is_flow


@pytest.mark.parametrize("schedule", [ContinuousSchedule("arctan", 0.03, 500), FlowSchedule(1000.0)])
def test_timesteps_are_drawn_uniformly(schedule, generator):
    alignment = FlowAlignment(schedule, "flow" if isinstance(schedule, FlowSchedule) else "v")
    t = TimeDensity("timestep").sample(4000, alignment, generator)
    share = ((alignment.timestep(t) - schedule.first) / (schedule.last - schedule.first)).sort().values
    assert (share - (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000).abs().max() < 0.03


def test_rows_for_schedulers():
    """As ComfyUI lists them: evenly spaced log sigma, and s = 1 / 1000 to 1."""
    index = torch.arange(1000)
    for scale in ("log", "arctan"):
        schedule = ContinuousSchedule(scale, 0.03, 500)
        listed = schedule.log_sigma_at(schedule.row(index))
        wanted = torch.linspace(math.log(0.03), math.log(500), 1000, dtype=torch.float64)
        torch.testing.assert_close(listed, wanted, rtol=1e-10, atol=1e-10)
        assert len(schedule) == 1000
    flow = FlowSchedule(1.0)
    torch.testing.assert_close(torch.sigmoid(flow.log_sigma_at(flow.row(index))), (index.double() + 1) / 1000)


def test_a_call_needs_no_float64_and_no_wait(any_case, fake_device):
    alignment = any_case.alignment
    meta = torch.device("meta")
    sigma, x = torch.empty(4, device=meta), torch.empty(4, 4, 8, 8, device=meta)
    t = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for device in (fake_device(waits=False), fake_device(waits=False)):
        with device:
            alignment.to_diffusion(x, FlowTime(s=sigma))
            assert alignment.timestep(FlowTime(s=sigma)).dtype == torch.float32
            alignment.denoised(x, x, FlowTime(s=sigma))
            of_a_call = len(device.kernels)
            alignment.velocity(x, x, t)
    assert of_a_call <= 24, device.kernels


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_bad_ends_are_named(low, high):
    with pytest.raises(ValueError, match="sigma_min must be above 0 and below sigma_max"):
        ContinuousSchedule("log", low, high)
