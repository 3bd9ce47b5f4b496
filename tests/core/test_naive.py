"""Naive flow matching: raw output, raw time; it stands wherever an alignment does."""

import pytest
import torch

from d2f_core import FlowAlignment, NaiveAlignment, solve


@pytest.fixture
def naive(sd):
    return NaiveAlignment(sd.schedule, sd.prediction)


def test_nothing_is_aligned(naive):
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    x, output = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(naive.to_diffusion(x, t), x) and torch.equal(naive.to_flow(x, t), x)
    assert torch.equal(naive.velocity(output, x, t), output)
    assert torch.allclose(naive.denoised(output, x, t), x + (1 - t[:, None]).float() * output)
    assert torch.allclose(naive.timestep(t), ((1 - t) * 1000).clamp(max=999))
    assert isinstance(naive, FlowAlignment)


def test_levels_ascend_and_the_round_trip_is_identity(naive):
    timesteps = torch.arange(1000, dtype=torch.float64)
    t = naive.flow_time(timesteps)
    assert (t.diff() < 0).all() and t[0] == naive.t_max < 1
    assert float(t[-1]) == pytest.approx(naive.t_min)
    assert torch.allclose(naive.timestep(t)[1:], timesteps[1:])


def test_a_network_that_answers_the_velocity_arrives(naive):
    x0, eps = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    end = solve(lambda t, x: naive.velocity(x0 - eps, x, t), eps, torch.linspace(0, 1, 3), "euler")
    assert torch.allclose(end, x0, atol=1e-6)
