"""The plot of a probe: the best reading lies lowest, and any number can be drawn."""

import math

import pytest
import torch

from diff2flow_kit.d2f_data.plots.probe_plot import plot_probe

LEVELS = (0.3, 0.5, 0.7)
BLUE, RED, GREY = (torch.tensor(c) / 255 for c in ((0x1F, 0x5F, 0xB0), (0xD1, 0x49, 0x5B), (0xB8, 0xB8, 0xB8)))


def rows_of(image, colour):
    """Rows of a colour inside the axes."""
    return ((image[0, 84:392, 80:780] - colour).abs().sum(-1) < 0.02).any(1).nonzero().flatten()


def test_a_smaller_error_lies_below_a_larger_one_and_the_limit_between():
    image = plot_probe({"eps": [0.3] * 3, "v": [1.5] * 3}, LEVELS, 0.7, "title")
    assert image.shape == (1, 440, 800, 3)
    best, limit, worse = (float(rows_of(image, colour).float().mean()) for colour in (BLUE, GREY, RED))
    assert worse + 30 < limit < best - 30


def test_nothing_was_probed():
    image = plot_probe({}, LEVELS, 0.7, "nothing was probed")
    assert not len(rows_of(image, BLUE)) and bool(torch.isfinite(image).all())


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 1e-30, 1e30])
def test_any_number_can_be_drawn(value):
    assert bool(torch.isfinite(plot_probe({"eps": [value, 0.5, value]}, LEVELS, 0.7, "")).all())
