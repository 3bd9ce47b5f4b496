"""The plot of sampling paths: its curves are where the numbers are, also for unusual numbers."""

import math

import pytest
import torch

from diff2flow_kit.d2f_data.plots.path_plot import PathCurves, plot_paths

BLUE, RED = (torch.tensor(colour) / 255 for colour in ((0x1F, 0x5F, 0xB0), (0xD1, 0x49, 0x5B)))


def curves(scale=1.0, name="model"):
    return PathCurves(name, [(i / 9, scale * (1 + i)) for i in range(1, 9)], [(n, scale / n) for n in (1, 2, 4, 8)])


def rows_of(image, colour, left, right):
    """Rows of a colour in the panel between two columns."""
    rows = ((image[0, 70:380, left:right] - colour).abs().sum(-1) < 0.02).any(1).nonzero()
    return rows.flatten()


def test_the_better_model_lies_below():
    image = plot_paths([curves(), curves(0.1, "other")])
    assert image.shape == (1, 440, 1000, 3)
    for left, right in ((80, 480), (590, 980)):
        worse, better = rows_of(image, BLUE, left, right), rows_of(image, RED, left, right)
        assert len(worse) > 20 and len(better) > 20 and worse.float().mean() < better.float().mean() - 50


def test_one_model_has_one_colour():
    image = plot_paths([curves()])
    assert len(rows_of(image, BLUE, 80, 480)) and not len(rows_of(image, RED, 80, 480))


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 1e-30, 1e30])
def test_any_number_can_be_drawn(value):
    curve = PathCurves("model", [(0.2, value), (0.8, 1.0)], [(1, value), (2, 0.5), (4, 0.5), (8, 0.5)])
    assert bool(torch.isfinite(plot_paths([curve])).all())
    assert bool(torch.isfinite(plot_paths([PathCurves("flat", [(0.5, value)] * 2, [(1, value), (8, value)])])).all())


def test_edges_of_windows_are_marked_in_the_colour_of_their_model():
    plain, marked = (plot_paths([curves()._replace(windows=windows)]) for windows in (1, 4))
    columns = ((plain - marked).abs().sum(-1)[0] > 0.1).any(0).nonzero().flatten()
    assert {round(float(column) - 78) // 100 for column in columns} == {1, 2, 3}
    assert bool(((marked[0, 370:378, 178:180] - BLUE).abs().sum(-1) < 0.02).any())
