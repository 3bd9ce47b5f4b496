"""Piecewise reflow: virtual pairs, states at the edges, and densities within windows."""

import pytest
import torch

from d2f_core import (
    DENSITIES,
    Batch,
    FlowAlignment,
    NoiseSchedule,
    TimeDensity,
    check_steps,
    coarser,
    edges,
    flow_grid,
    solve,
    solve_windows,
    virtual_pair,
)

SHAPE = (3, 2, 4, 4)


def states_of(windows, seed=0):
    return torch.randn(windows + 1, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def virtual(states, t):
    return virtual_pair(states[0], states[1:-1].movedim(0, 1), states[-1], t)


@pytest.mark.parametrize("windows", [1, 2, 4, 8])
def test_the_line_of_a_virtual_pair_is_the_chord_of_its_window(windows):
    states = states_of(windows)
    t = torch.tensor([0.03, 0.61, 0.999], dtype=torch.float64)
    eps, x0 = virtual(states, t)
    for row, time in enumerate(t.tolist()):
        k = int(time * windows)
        start, end = states[k, row], states[k + 1, row]
        torch.testing.assert_close(x0[row] - eps[row], (end - start) * windows, rtol=1e-12, atol=1e-12)
        at = time * x0[row] + (1 - time) * eps[row]
        torch.testing.assert_close(at, start + (time * windows - k) * (end - start), rtol=1e-12, atol=1e-12)


def test_one_window_is_the_pair_itself():
    states = states_of(1)
    eps, x0 = virtual(states, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(eps, states[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(x0, states[1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("windows", [2, 4])
def test_edges_belong_to_the_window_after_them_and_the_end_to_the_last(windows):
    states = states_of(windows)
    t = torch.tensor([0.0, 1 / windows, 1.0], dtype=torch.float64)
    eps, x0 = virtual(states, t)
    wanted = [states[1, 0] - states[0, 0], states[2, 1] - states[1, 1], states[-1, 2] - states[-2, 2]]
    torch.testing.assert_close(x0 - eps, windows * torch.stack(wanted), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("windows", [1, 2, 4, 8])
def test_a_student_of_the_chords_takes_one_euler_step_per_window(windows):
    states = states_of(windows)

    def student(t, x):
        eps, x0 = virtual(states, t.expand(len(x)))
        return x0 - eps

    end = solve(student, states[0], flow_grid("uniform", windows), "euler")
    torch.testing.assert_close(end, states[-1], rtol=1e-12, atol=1e-12)
    halves = solve(student, states[0], flow_grid("uniform", 2 * windows), "euler")
    torch.testing.assert_close(halves, states[-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
@pytest.mark.parametrize("windows", [1, 2, 4])
def test_states_at_the_edges_are_those_of_the_whole_path(method, windows):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    ts, done = flow_grid("uniform", 8), []

    def velocity(t, x):
        return torch.sin(3 * float(t) + x)

    states = solve_windows(velocity, x, ts, windows, method, done.append)
    assert done == list(range(1, 9))
    for k, state in enumerate(states[1:], 1):
        assert torch.equal(state, solve(velocity, x, ts[: 8 * k // windows + 1], method))
    assert torch.equal(states[0], x) and len(states) == windows + 1


@pytest.mark.parametrize(("steps", "windows", "remedy"), [(25, 4, "24 or 28"), (3, 4, "to 4$"), (9, 8, "8 or 16")])
def test_steps_that_miss_an_edge_are_named(steps, windows, remedy):
    with pytest.raises(ValueError, match=rf"steps is {steps}, .* multiple of {windows}, .*{remedy}"):
        check_steps(steps, windows)
    with pytest.raises(ValueError, match=remedy):
        solve_windows(lambda t, x: x, torch.ones(SHAPE), flow_grid("uniform", steps), windows)


def test_eight_windows_can_be_read_as_four_two_and_one():
    states = states_of(8)
    waypoints = states[1:-1].movedim(0, 1)
    for windows in (8, 4, 2, 1):
        wanted = states[:: 8 // windows][1:-1].movedim(0, 1)
        assert torch.equal(coarser(waypoints, windows), wanted) and wanted.shape[1] == windows - 1


@pytest.fixture
def alignment():
    return FlowAlignment(NoiseSchedule.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2), "eps")


@pytest.mark.parametrize("name", DENSITIES)
def test_with_one_window_times_are_drawn_as_without(alignment, name):
    def draw(*windows):
        return TimeDensity(name, -1.0, 0.7).sample(500, alignment, torch.Generator().manual_seed(3), *windows)

    assert torch.equal(draw(), draw(1))
    assert torch.equal(draw(), draw(4)) == (name in ("timestep", "uniform", "few_steps")) or name == "uniform"


def test_few_steps_are_the_times_of_one_and_two_steps(alignment):
    t = TimeDensity("few_steps").sample(4000, alignment, torch.Generator().manual_seed(3), 4)
    assert set(t.tolist()) == {0.0, 0.5} and float((t == 0).double().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", ["uniform", "logit_normal", "u_shaped"])
def test_every_window_has_the_density_of_the_whole(alignment, name):
    density = TimeDensity(name, -1.0, 0.7)
    t = density.sample(40_000, alignment, torch.Generator().manual_seed(3), 4)
    whole = density.sample(40_000, alignment, torch.Generator().manual_seed(4)).sort().values
    for k in range(4):
        part = t[(t >= k / 4) & (t < (k + 1) / 4)]
        assert abs(len(part) - 10_000) < 400
        ranks = torch.searchsorted(whole, (part * 4 - k).sort().values) / len(whole)
        assert (ranks - torch.linspace(0, 1, len(ranks))).abs().max() < 0.025  # Kolmogorov-Smirnov


def test_a_batch_knows_its_windows():
    x = torch.zeros(2, 3)
    assert Batch(x, None).windows == 1 and Batch(x, None, waypoints=torch.zeros(2, 3, 3)).windows == 4
    assert torch.equal(edges(4), torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64))
