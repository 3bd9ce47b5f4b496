"""Sizes and colours around a depth model."""

import colorsys

import pytest
import torch

from diff2flow_kit.d2f_data.plots.depth_images import COLORS, as_rgb, colorize, resize_depth, resize_image, working_size


@pytest.mark.parametrize(
    ("height", "width", "resolution", "wanted"),
    [
        (96, 96, 96, (96, 96)),
        (1080, 1920, 512, (384, 680)),
        (1920, 1080, 512, (680, 384)),
        (50, 50, 512, (512, 512)),
        (101, 333, 0, (104, 336)),
        (512, 768, 0, (512, 768)),
        (10, 4000, 512, (32, 10240)),
        (3, 5, 0, (32, 32)),
    ],
)
def test_working_sizes(height, width, resolution, wanted):
    assert working_size(height, width, resolution) == wanted


def test_multiples_of_other_latents():
    assert working_size(100, 200, 0, multiple=32) == (96, 192)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels_becomes_three(channels):
    image = torch.rand(2, 5, 6, channels)
    rgb = as_rgb(image)
    assert rgb.shape == (2, 5, 6, 3)
    kept = image[..., :3] if channels >= 3 else image[..., :1]
    assert torch.equal(rgb[..., : kept.shape[-1]], kept) and torch.equal(rgb[..., 0], image[..., 0])


@pytest.mark.parametrize("size", [(40, 48), (7, 9), (40, 7)])
def test_resizing_keeps_ramps_and_stays_in_range(size):
    ramp = torch.linspace(0, 1, 24)[None, :, None].expand(2, 24, 20)
    small = resize_depth(ramp, *size)
    assert small.shape == (2, *size) and small.min() >= 0 and small.max() <= 1
    centers = (torch.arange(size[0]) + 0.5) / size[0] * 24 / 23 - 0.5 / 23
    inner = slice(size[0] // 4, -(size[0] // 4))
    assert torch.allclose(small[0, inner, 0], centers[inner], atol=0.01)
    checks = ((torch.arange(24)[:, None] + torch.arange(20)) % 2).float()[None, :, :, None].expand(1, 24, 20, 3)
    image = resize_image(checks, *size)
    assert image.shape == (1, *size, 3) and image.min() >= 0 and image.max() <= 1


def test_small_images_are_blurred_and_not_sampled():
    stripes = (torch.arange(96) % 2).float()[None, :, None, None].expand(1, 96, 96, 3)
    assert resize_image(stripes, 32, 32)[0, 2:-2].std() < 0.06


def test_the_same_size_is_the_same_tensor():
    depth = torch.rand(1, 16, 16)
    assert torch.equal(resize_depth(depth, 16, 16), depth)


@pytest.mark.parametrize("colors", list(COLORS))
def test_colours_tell_all_depths_apart(colors):
    depth = torch.linspace(0, 1, 64).reshape(1, 1, 64).expand(2, 3, 64)
    image = colorize(depth, colors)
    assert image.shape == (2, 3, 64, 3) and image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1
    assert (image[0, 0].diff(dim=0).abs().amax(-1) > 0.002).all()
    assert torch.equal(image[0], image[1])


def test_near_is_warm_or_light():
    depth = torch.tensor([[[0.02, 0.98]]])
    for colors in ("spectral", "turbo"):
        near, far = (colorsys.rgb_to_hsv(*color.tolist())[0] for color in colorize(depth, colors)[0, 0])
        assert near < 0.05 or near > 0.9  # red
        assert 0.55 < far < 0.9  # blue, violet
    near, far = colorize(depth, "viridis")[0, 0].mean(-1)
    assert near > far
    assert torch.allclose(colorize(depth, "gray, near is white")[0, 0, :, 0], torch.tensor([0.98, 0.02]))
    assert torch.allclose(colorize(depth, "gray, far is white")[0, 0, :, 2], torch.tensor([0.02, 0.98]))


@pytest.mark.parametrize("colors", list(COLORS))
@pytest.mark.parametrize("value", [-0.5, 0.0, 0.5, 1.0, 1.5])
def test_flat_depth_and_depth_beyond_the_range(colors, value):
    """Each image by itself: what lies in another must not change its colours."""
    depth = torch.full((1, 4, 4), value)
    image = colorize(depth, colors)
    assert torch.equal(image, colorize(depth.clamp(0, 1), colors))
    beside = colorize(torch.cat([depth, torch.rand(1, 4, 4)]), colors)
    assert torch.equal(beside[:1], image)


def test_unknown_colours_are_refused():
    with pytest.raises(ValueError, match="unknown colors 'jet'; allowed are 'spectral', 'turbo'"):
        colorize(torch.zeros(1, 2, 2), "jet")
