"""The plot of the losses of a training run."""

import math

import pytest
import torch

from diff2flow_kit.d2f_data.plots.loss_plot import plot_losses, running_mean

LIGHT, DARK, RED = ((201, 216, 238), (31, 95, 176), (209, 73, 91))


def pixels_of(image, colour, left=80, top=30):
    """(row, column) of the pixels of a colour below the legend, (N, 2)."""
    pixels = (image[0] * 255).round().int()
    found = (pixels == torch.tensor(colour, dtype=torch.int32)).all(-1).nonzero()
    return found[(found[:, 0] > top) & (found[:, 1] >= left)]


def test_a_plot_is_an_image():
    image = plot_losses([1.0, 0.5, 0.25, 0.2], [(2, 0.6), (4, 0.3)], "a run")
    assert image.shape == (1, 480, 800, 3) and image.dtype == torch.float32
    assert float(image.min()) >= 0 and float(image.max()) == 1


def test_falling_losses_fall_in_the_plot():
    image = plot_losses([2.0 ** -(i / 10) for i in range(101)])
    line = pixels_of(image, DARK)
    left, right = (line[line[:, 1].float().sub(x).abs() < 8][:, 0].float().mean() for x in (90, 770))
    middle = line[line[:, 1].sub(429).abs() < 8][:, 0].float().mean()
    assert left < 80 and right > 400  # rows count from the top
    assert float(middle) == pytest.approx(float(left + right) / 2, abs=12)  # logarithmic: a straight line
    assert len(pixels_of(image, RED)) == 0


def test_the_validation_is_red_and_at_its_step():
    image = plot_losses([1.0] * 100, [(50, 0.5)])
    rows, columns = pixels_of(image, RED).float().mean(0).tolist()
    assert columns == pytest.approx(78 + 702 * 49 / 99, abs=2) and rows == pytest.approx(436, abs=3)


@pytest.mark.parametrize(
    ("losses", "validation"),
    [
        ([], []),
        ([0.5], []),
        ([0.0], []),
        ([0.3, 0.3, 0.3], []),
        ([0.0, 1.0], []),
        ([-1.0, 1.0], []),
        ([1e-30, 1e30], []),
        ([1.0, math.nan, math.inf, 2.0], []),
        ([math.nan], [(1, math.nan)]),
        ([1.0, 2.0], [(1, math.inf)]),
        ([0.5], [(1, 0.5)]),
    ],
)
def test_unusual_losses_are_plotted(losses, validation):
    image = plot_losses(losses, validation)
    assert image.shape == (1, 480, 800, 3) and bool(torch.isfinite(image).all())


def test_the_running_mean_is_not_biased_at_the_start():
    assert running_mean([3.0] * 500) == pytest.approx([3.0] * 500)
    assert running_mean([1.0, 5.0]) == [1.0, 5.0]
    assert running_mean([]) == []


def test_the_running_mean_is_smooth_and_follows():
    losses = [1.0 + (-1) ** i for i in range(400)]
    assert all(abs(mean - 1) < 0.1 for mean in running_mean(losses)[40:])
    stairs = running_mean([1.0] * 200 + [0.0] * 200)
    assert stairs[199] == pytest.approx(1) and stairs[-1] < 1e-3
