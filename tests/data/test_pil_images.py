"""IMAGE tensors as PIL images and back, and samples in a row."""

import pytest
import torch

from diff2flow_kit.d2f_data.plots.pil_images import side_by_side, to_pil


def test_an_image_as_pil_images():
    images = torch.zeros(2, 4, 6, 3)
    images[1] = torch.tensor([2.0, 0.5, -1.0])
    one, two = to_pil(images)
    assert one.size == two.size == (6, 4)
    assert one.getpixel((0, 0)) == (0, 0, 0) and two.getpixel((5, 3)) == (255, 128, 0)


def test_samples_are_placed_side_by_side():
    row = side_by_side(to_pil(torch.stack([torch.zeros(8, 8, 3), torch.ones(8, 8, 3)])))
    assert row.size == (512, 256) and row.getpixel((100, 100)) == (0, 0, 0) and row.getpixel((400, 100)) == (255,) * 3


@pytest.mark.parametrize(("size", "wanted"), [((96, 96), (288, 288)), ((512, 768), (512, 768)), ((64, 32), (512, 256))])
def test_small_samples_are_enlarged_by_whole_factors(size, wanted):
    assert side_by_side(to_pil(torch.zeros(1, size[1], size[0], 3))).size == wanted
