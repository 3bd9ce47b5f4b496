"""What an error of the network's output does to x0 and velocity, by prediction type; the table of docs/math.md."""

from pathlib import Path

import pytest
import torch

from d2f_core import FlowAlignment, NoiseSchedule
from d2f_core.naive import NaiveAlignment

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
TIMES = (0.02, 0.064, 0.1, 0.2, 0.5, 0.9)
MATH = Path(__file__).resolve().parents[2] / "docs" / "math.md"
KINDS = {"eps": "eps", "v": "v", "naive": "velocity"}


def coordinates(kind):
    schedule = NoiseSchedule.from_betas(BETAS)
    return NaiveAlignment(schedule, "eps") if kind == "naive" else FlowAlignment(schedule, kind)


def pair(t):
    """x0, eps and the state of a flow time, 4096 items; the same for every kind."""
    x0, eps = torch.randn(2, 4096, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x0, eps, t * x0 + (1 - t) * eps


def gain(kind, t):
    """Factor from an error of the output to that of x0."""
    a, one = coordinates(kind), torch.ones(1, 1, dtype=torch.float64)
    return float((a.denoised(one, one, t) - a.denoised(0 * one, one, t)).abs())


def rounding(kind, t):
    """Root mean square error of x0 that rounding the true output to bfloat16 makes."""
    a, (x0, eps, x) = coordinates(kind), pair(t)
    output = a.target(x0, eps, t)
    exact, rounded = a.denoised(output, x, t), a.denoised(output.bfloat16().double(), x, t)
    return float((rounded - exact).square().mean().sqrt())


def test_an_error_of_eps_is_multiplied_by_sigma_ve_and_others_by_no_more_than_one():
    for t in (0.064, 0.2, 0.5, 0.9):
        assert gain("eps", t) == pytest.approx((1 - t) / t, rel=2e-3)
        norm = (t**2 + (1 - t) ** 2) ** 0.5
        assert gain("v", t) == pytest.approx((1 - t) / norm, rel=1e-4) and gain("naive", t) == pytest.approx(1 - t)
    assert gain("eps", 0.0) == pytest.approx(14.61, abs=0.01) and gain("v", 0.0) < 1 == gain("naive", 0.0)


def test_in_bfloat16_eps_loses_digits_of_x0_near_noise_only():
    assert 10 < rounding("eps", 0.064) / rounding("v", 0.064) < 20
    assert rounding("eps", 0.9) == pytest.approx(rounding("v", 0.9), rel=0.1)


def test_the_table_of_the_mathematics_is_what_comes_out():
    lines = MATH.read_text(encoding="utf-8").splitlines()
    for kind, label in KINDS.items():
        for name, figure in (("error x", gain), ("bf16", rounding)):
            cells = [f"{figure(kind, t):.2g}" for t in TIMES]
            assert f"| {label}, {name} | {' | '.join(cells)} |" in lines
