"""Grids of flow time."""

import pytest
import torch

from d2f_core import FLOW_GRIDS, flow_grid, shift_sigmas


@pytest.mark.parametrize("name", FLOW_GRIDS)
@pytest.mark.parametrize("t_start", [0.0, 0.064])
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_ends_and_order(name, t_start, steps):
    ts = flow_grid(name, steps, t_start=t_start, shift=3.0, mean=0.3, std=1.2)
    assert ts.shape == (steps + 1,) and ts.dtype == torch.float64
    assert ts[0] == t_start and ts[-1] == 1
    assert (ts.diff() > 0).all()


def test_uniform_is_uniform():
    torch.testing.assert_close(flow_grid("uniform", 4), torch.tensor([0, 0.25, 0.5, 0.75, 1.0]).double())


def test_shift_leans_to_noise_and_one_is_uniform():
    assert (flow_grid("shifted", 8, shift=3.0)[1:-1] < flow_grid("uniform", 8)[1:-1]).all()
    torch.testing.assert_close(flow_grid("shifted", 8, shift=1.0), flow_grid("uniform", 8))
    s = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(shift_sigmas(shift_sigmas(s, 2.5), 1 / 2.5), s)
    assert shift_sigmas(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)


def test_logit_normal_has_its_quantiles():
    normal = torch.distributions.Normal(0.4, 0.8)
    ts = flow_grid("logit_normal", 10, mean=0.4, std=0.8)
    torch.testing.assert_close(normal.cdf(torch.logit(ts[1:-1])), torch.arange(1, 10).double() / 10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "cosine"}, "unknown grid 'cosine'.*'uniform'"),
        ({"steps": 0}, "at least 1 step"),
        ({"t_start": 1.0}, r"\[0, 1\)"),
        ({"name": "shifted", "shift": 0.0}, "shift must be above 0"),
        ({"name": "logit_normal", "std": 0.0}, "std"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        flow_grid(**{"name": "uniform", "steps": 4, **arguments})
