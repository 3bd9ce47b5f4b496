"""Flow time and timestep: round trips, table, monotony, the interpolants."""

import torch

from d2f_core import FlowAlignment
from d2f_core.time_map import FlowTime


def test_round_trip_both_ways(case):
    a = case.alignment
    timestep = torch.linspace(0, 999, 5000, dtype=torch.float64)
    assert (a.timestep(a.flow_time(timestep)) - timestep).abs().max() < 1e-9
    t = torch.linspace(a.t_min, a.t_max, 5000, dtype=torch.float64)
    assert (a.flow_time(a.timestep(t)) - t).abs().max() < 1e-9


def test_monotone(case):
    timestep = torch.linspace(0, 999, 20000, dtype=torch.float64)
    assert (case.alignment.flow_time(timestep).diff() < 0).all()
    t = torch.linspace(case.alignment.t_min, case.alignment.t_max, 20000, dtype=torch.float64)
    assert (case.alignment.timestep(t).diff() < 0).all()


def test_equals_the_table_at_integer_timesteps(case):
    """Row i is timestep i. A map that is off by one misses by far more than the tolerance."""
    t = case.row_times
    rows = torch.arange(1000)
    assert (case.alignment.flow_time(rows) - t).abs().max() < 1e-12
    assert (case.alignment.timestep(t) - rows).abs().max() < 1e-6
    assert (case.alignment.flow_time(rows + 1) - t)[:-1].abs().min() > 1e-6


def test_ends(sd):
    assert abs(sd.t_min - 0.0640) < 1e-4
    assert abs(sd.t_max - 0.9716) < 1e-4
    assert sd.timestep(torch.tensor([0.0, sd.t_min / 2, 0.99, 1.0])).tolist() == [999, 999, 0, 0]


def test_numbers_scalars_and_batches_agree(sd):
    expected = sd.timestep(torch.tensor([0.3], dtype=torch.float64))
    assert sd.timestep(0.3) == expected[0]
    assert sd.timestep(torch.tensor(0.3, dtype=torch.float64)).shape == ()
    assert sd.flow_time(500).shape == ()
    assert sd.timestep(torch.zeros(0)).shape == (0,)


def test_interpolants_match(sd, generator):
    """x_dm and x_fm of the same x0 and eps are one another's image, and x_dm has alpha^2 + sigma^2 = 1."""
    x0, eps = torch.randn(2, 64, 3, 5, generator=generator, dtype=torch.float64)
    t = torch.rand(64, generator=generator, dtype=torch.float64)
    alpha, sigma = FlowTime.of(t).coefficients().unbind(-1)
    assert (alpha**2 + sigma**2 - 1).abs().max() < 1e-14
    column = (64, 1, 1)
    x_fm = t.view(column) * x0 + (1 - t.view(column)) * eps
    x_dm = alpha.view(column) * x0 + sigma.view(column) * eps
    assert (sd.to_diffusion(x_fm, t) - x_dm).abs().max() < 1e-14
    assert (sd.to_flow(x_dm, t) - x_fm).abs().max() < 1e-14
    assert (sd.to_flow(sd.to_diffusion(x_fm, t), t) - x_fm).abs().max() < 1e-14


def test_alignment_is_immutable_and_light(sd):
    assert isinstance(hash(sd), int)
    assert FlowAlignment(sd.schedule, "v").schedule is sd.schedule
