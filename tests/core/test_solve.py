"""Convergence orders, exact answers, tolerances, counting, and where solvers look."""

import math
import sys

import pytest
import torch

from d2f_core import (
    ADAPTIVE_METHODS,
    FIXED_METHODS,
    METHODS,
    CountedVelocity,
    EvaluationLimitError,
    NonFiniteVelocityError,
    solve,
)

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
STAGES = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


def grid(steps, start=0.0, end=1.0):
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def oscillation(t, x):
    """x' = x cos t, so x(1) = x(0) exp(sin 1)."""
    return x * torch.cos(t)


def error(method, steps, **options):
    x = torch.linspace(0.5, 2, 6, dtype=torch.float64).view(2, 3)
    return float((solve(oscillation, x, grid(steps), method, **options) - x * math.exp(math.sin(1))).abs().max())


@pytest.mark.parametrize("open_end", [False, True])
@pytest.mark.parametrize("method", FIXED_METHODS)
def test_order_of_convergence(method, open_end):
    errors = [error(method, steps, open_end=open_end) for steps in (32, 64, 128)]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert math.log2(coarse / fine) == pytest.approx(ORDERS[method], abs=0.12)


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_order_on_the_gaussian_flow(v_case, method):
    """The whole chain, network to trajectory, against the exact path; some orders come out higher here."""
    start, end = 0.1, 0.9
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    exact = v_case.data.path(x, start, end)

    def velocity(t, x):
        t = t.expand(len(x))
        return v_case.alignment.velocity(v_case.ask(x, t), x, t)

    errors = [float((solve(velocity, x, grid(n, start, end), method) - exact).abs().max()) for n in (32, 64, 128)]
    assert errors[-1] < 0.02
    assert math.log2(errors[1] / errors[2]) > ORDERS[method] - 0.3


@pytest.mark.parametrize("method", METHODS)
def test_straight_paths_are_exact(method):
    """A flow with straight, unit speed paths is what reflow aims at: every solver gets it right."""
    if method in ADAPTIVE_METHODS:
        pytest.importorskip("torchdiffeq", reason="adaptive solvers are torchdiffeq's")
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = solve(lambda t, x: torch.full_like(x, 2.5), x, grid(3), method)
    torch.testing.assert_close(end, x + 2.5, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_adaptive_reaches_its_tolerance(method, tolerance):
    pytest.importorskip("torchdiffeq", reason="adaptive solvers are torchdiffeq's")
    counted = CountedVelocity(oscillation)
    x = torch.ones(2, 3, dtype=torch.float64)
    end = solve(counted, x, grid(1), method, rtol=tolerance, atol=tolerance)
    assert (end - math.exp(math.sin(1))).abs().max() < 10 * tolerance
    assert counted.nfe < 400


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_a_batch_takes_the_steps_of_its_worst_item(method):
    pytest.importorskip("torchdiffeq", reason="adaptive solvers are torchdiffeq's")

    def stiff_item(t, x):
        rate = torch.zeros(len(x), 1, dtype=x.dtype)
        rate[0] = 40
        return -rate * x

    x = torch.ones(64, 2, dtype=torch.float64)
    counted, alone = CountedVelocity(stiff_item), CountedVelocity(stiff_item)
    end = solve(counted, x, grid(1), method, rtol=1e-5, atol=1e-5)
    solve(alone, x[:1], grid(1), method, rtol=1e-5, atol=1e-5)
    assert (end[0] - math.exp(-40)).abs().max() < 1e-4
    assert counted.nfe == alone.nfe


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0), (0.25, 0.5)])
def test_no_evaluation_outside_the_interval(method, ends):
    if method in ADAPTIVE_METHODS:
        pytest.importorskip("torchdiffeq", reason="adaptive solvers are torchdiffeq's")
    seen = []

    def velocity(t, x):
        seen.append(float(t))
        return oscillation(t, x)

    solve(velocity, torch.ones(1, 2), grid(3, *ends), method, rtol=1e-2, atol=1e-2)
    assert min(ends) <= min(seen) and max(seen) <= max(ends)


@pytest.mark.parametrize("method", METHODS)
def test_open_end_is_never_evaluated(method):
    if method in ADAPTIVE_METHODS:
        pytest.importorskip("torchdiffeq", reason="adaptive solvers are torchdiffeq's")
    data = torch.tensor([[3.0, -1.0]], dtype=torch.float64)

    def towards_data(t, x):
        assert t < 1
        return (data - x) / (1 - t)

    end = solve(towards_data, torch.zeros_like(data), grid(5), method, open_end=True)
    torch.testing.assert_close(end, data, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_nfe_and_steps_are_counted(method):
    counted, steps = CountedVelocity(oscillation), []
    solve(counted, torch.ones(1, 1), grid(5), method, on_step=steps.append)
    assert counted.nfe == 5 * STAGES[method]
    assert [step.index for step in steps] == list(range(5))
    assert [step.time for step in steps] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert steps[-1].nfe == counted.nfe


def test_adaptive_steps_are_reported():
    pytest.importorskip("torchdiffeq", reason="adaptive solvers are torchdiffeq's")
    for ts in (grid(1), grid(1, 1.0, 0.0)):
        counted, steps = CountedVelocity(oscillation), []
        solve(counted, torch.ones(1, 1), ts, "dopri5", on_step=steps.append)
        times = torch.tensor([float(ts[0])] + [step.time for step in steps])
        assert times[-1] == ts[-1]
        assert (times.diff() > 0).all() or (times.diff() < 0).all()
        assert counted.nfe == steps[-1].nfe > 6


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_the_limit_stops_with_words(method):
    if method in ADAPTIVE_METHODS:
        pytest.importorskip("torchdiffeq", reason="adaptive solvers are torchdiffeq's")
    counted = CountedVelocity(oscillation, limit=7)
    with pytest.raises(EvaluationLimitError, match="limit of 7 evaluations"):
        solve(counted, torch.ones(1, 1), grid(4), method, rtol=1e-9, atol=1e-9)
    assert counted.nfe == 7


@pytest.mark.parametrize("method", METHODS)
def test_nan_is_an_error_that_says_so(method):
    if method in ADAPTIVE_METHODS:
        pytest.importorskip("torchdiffeq", reason="adaptive solvers are torchdiffeq's")
    with pytest.raises(NonFiniteVelocityError, match="NaN or infinite"):
        solve(lambda t, x: x / 0, torch.zeros(1, 1), grid(2), method)


def test_dtype_of_the_state_is_kept():
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(1, 2, dtype=dtype)
        assert solve(lambda t, x: -x, x, grid(4), "rk4").dtype == dtype


def test_empty_batch():
    for method in METHODS:
        assert solve(oscillation, torch.zeros(0, 3), grid(2), method).shape == (0, 3)


def test_there_and_back(sd):
    """Inversion: the flow backwards undoes the flow."""
    x = torch.ones(1, 2, dtype=torch.float64)
    there = solve(oscillation, x, grid(64), "rk4")
    back = solve(oscillation, there, grid(64).flip(0), "rk4")
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)


def test_missing_torchdiffeq_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ModuleNotFoundError, match=r"euler.*-m pip install torchdiffeq$"):
        solve(oscillation, torch.ones(1, 1), grid(1), "dopri5")


@pytest.mark.parametrize(
    ("ts", "method", "options", "words"),
    [
        (grid(2), "leapfrog", {}, "unknown solver 'leapfrog'.*'euler'"),
        (torch.tensor([0.0]), "euler", {}, "at least 2"),
        (torch.tensor([0.0, 0.5, 0.5]), "euler", {}, "strictly ascending"),
        (torch.zeros(2, 2), "euler", {}, "one-dimensional"),
        (grid(2), "dopri5", {"rtol": -1.0}, "tolerances"),
        (grid(1), "dopri5", {"open_end": True}, "3 or more"),
    ],
)
def test_bad_arguments_are_named(ts, method, options, words):
    with pytest.raises(ValueError, match=words):
        solve(oscillation, torch.ones(1, 1), ts, method, **options)
