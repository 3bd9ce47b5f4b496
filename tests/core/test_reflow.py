"""Straightness, curvature and few-step errors, against paths whose answers are known."""

import math

import numpy as np
import pytest
import torch

from d2f_core import flow_grid
from d2f_core.reflow import FlowPath, curvature, few_step_errors, follow, straightness
from d2f_core.windows import window_straightness

GRID = flow_grid("uniform", 64)
RADII = torch.tensor([1.0, 3.0], dtype=torch.float64)


def half_turn(t, x):
    """Circles around the origin, half a turn from t = 0 to 1: v = pi J x."""
    return math.pi * torch.stack([-x[:, 1], x[:, 0]], dim=1)


@pytest.fixture
def start():
    """Two items of 2 numbers, on circles of radius 1 and 3."""
    return torch.stack([RADII, torch.zeros_like(RADII)], dim=1)


def test_a_straight_path_at_constant_speed_has_no_straightness_to_speak_of():
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = follow(lambda t, x: torch.full_like(x, 0.7), x, GRID, "euler")
    assert path.states.shape == (65, 3, 4, 5, 5)
    assert straightness(path).max() < 1e-24
    assert curvature(path)[1].max() < 1e-9
    assert few_step_errors(lambda t, x: torch.full_like(x, 0.7), x, path.end).max() < 1e-14


def test_straightness_of_half_a_turn(start):
    """|v| = pi r, |chord| = 2 r, and the mean of v is the chord: the variance over 2 numbers is (pi^2 - 4) r^2 / 2."""
    path = follow(half_turn, start, GRID, "rk4")
    assert torch.allclose(path.end, -start, atol=1e-6)
    exact = (math.pi**2 - 4) * RADII**2 / 2
    assert torch.allclose(straightness(path), exact, rtol=2e-3)
    assert not torch.allclose(straightness(path), exact, rtol=1e-4)  # a finite step cuts the corner


def test_straightness_of_exact_states_is_that_of_the_polygon(start):
    """Secants of a circle: |v| = 2 r sin(pi h / 2) / h."""
    turn = math.pi * GRID
    states = RADII[None, :, None] * torch.stack([turn.cos(), turn.sin()], dim=1)[:, None, :]
    secant = 2 * math.sin(math.pi / 128) * 64
    assert torch.allclose(straightness(FlowPath(GRID, states)), (secant**2 - 4) * RADII**2 / 2)


def test_curvature_of_half_a_turn(start):
    """The acceleration is pi^2 r everywhere."""
    times, bent = curvature(follow(half_turn, start, GRID, "rk4"))
    assert torch.equal(times, GRID[1:-1]) and bent.shape == (63, 2)
    assert torch.allclose(bent, (math.pi**2 * RADII / math.sqrt(2)).expand_as(bent), rtol=2e-3)


def test_uneven_steps_weigh_by_their_length():
    """x = t^2: v = 2 t, the chord is 1, and the integral of (2 t - 1)^2 is 1/3."""
    for grid in (flow_grid("uniform", 200), flow_grid("shifted", 200, shift=3.0)):
        states = grid[:, None, None].square().expand(-1, 2, 3)
        path = FlowPath(grid, states)
        assert torch.allclose(straightness(path), torch.full((2,), 1 / 3, dtype=torch.float64), rtol=1e-3)
        assert torch.allclose(curvature(path)[1], torch.tensor(2.0, dtype=torch.float64))


def test_a_path_that_starts_later_is_measured_by_its_own_chord():
    """x = t^2 from t = 1/2: v = 2 t, the chord is 3/2, the mean of (2 t - 3/2)^2 over [1/2, 1] is 1/12."""
    grid = flow_grid("uniform", 200, t_start=0.5)
    path = FlowPath(grid, grid[:, None, None].square().expand(-1, 1, 3))
    assert float(straightness(path)) == pytest.approx(1 / 12, rel=1e-3)


def test_errors_of_few_steps_of_an_exponential():
    """dx/dt = x: n Euler steps end at (1 + 1/n)^n, the truth at e."""
    x = torch.ones(1, 7, dtype=torch.float64)
    reference = follow(lambda t, x: x, x, GRID, "rk4").end
    errors = few_step_errors(lambda t, x: x, x, reference, (1, 2, 4))
    expected = torch.tensor([[math.e - (1 + 1 / n) ** n] for n in (1, 2, 4)], dtype=torch.float64)
    assert torch.allclose(errors, expected, atol=1e-7)


def test_errors_start_where_they_are_told():
    calls = []
    velocity = lambda t, x: calls.append(float(t)) or torch.zeros_like(x)  # noqa: E731
    few_step_errors(velocity, torch.zeros(1, 2), torch.zeros(1, 2), (1, 2), t_start=0.2)
    assert calls == pytest.approx([0.2, 0.2, 0.6])


def test_steps_are_reported():
    seen = []
    follow(lambda t, x: x, torch.ones(1, 2), flow_grid("uniform", 3), "heun", seen.append)
    assert seen == [1, 2, 3]


def test_one_step_has_no_curvature():
    path = follow(lambda t, x: x, torch.ones(1, 2), flow_grid("uniform", 1), "euler")
    assert float(straightness(path)) == 0
    with pytest.raises(ValueError, match="at least 2 steps"):
        curvature(path)


def test_half_precision_is_measured_in_single():
    path = follow(lambda t, x: x, torch.ones(1, 8, dtype=torch.float16), flow_grid("uniform", 8), "euler")
    assert straightness(path).dtype == torch.float32 and straightness(path) > 0


@pytest.mark.parametrize("windows", [1, 2, 4, 8])
def test_straightness_within_windows(windows):
    """x = t^2 within a window of length l: the mean of (2 t - a - b)^2 is l^2 / 3; a polygon of its edges has none."""
    grid = flow_grid("uniform", 800)
    states = grid.square()[:, None, None].expand(-1, 2, 3)
    exact = torch.full((2,), 1 / (3 * windows**2), dtype=torch.float64)
    assert torch.allclose(window_straightness(FlowPath(grid, states), windows), exact, rtol=2e-3)
    edges = torch.linspace(0, 1, windows + 1, dtype=torch.float64)
    polygon = torch.from_numpy(np.interp(grid.numpy(), edges.numpy(), edges.square().numpy()))[:, None, None]
    assert window_straightness(FlowPath(grid, polygon), windows).max() < 1e-20
    uneven = flow_grid("uniform", 50)  # no step ends at the edges of 4 or 8 windows
    assert float(window_straightness(FlowPath(uneven, uneven.square()[:, None, None]), windows)) > 0


def test_one_window_is_the_whole_path(start):
    path = follow(half_turn, start, GRID, "rk4")
    assert torch.equal(window_straightness(path, 1), straightness(path))
