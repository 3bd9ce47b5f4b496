"""Augmentation parameters of a variant, and their effect on the pixels."""

import random

import pytest
import torch

from diff2flow_kit.d2f_data.image_sets.augment import (
    Augmentation,
    AugmentationParams,
    augment_image,
    augment_mask,
    encoded_crop_left,
    sample_params,
)
from diff2flow_kit.d2f_data.image_sets.buckets import Bucket, Placement

ALL = Augmentation(flip=True, crop=0.5, colour=0.4)
BUCKET = Bucket(4, 3)
PLACEMENT = Placement(8, 5, 1, 2)


@pytest.fixture
def pixels():
    return torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(0))


def test_the_default_changes_nothing():
    assert sample_params(Augmentation(), 5, "image", 3) == AugmentationParams()


def test_parameters_depend_on_seed_image_and_variant_alone():
    first = sample_params(ALL, 1, "a", 0)
    assert first == sample_params(ALL, 1, "a", 0)
    assert (
        len({first, sample_params(ALL, 2, "a", 0), sample_params(ALL, 1, "b", 0), sample_params(ALL, 1, "a", 1)}) == 4
    )


def test_parameters_stay_in_their_ranges():
    found = [sample_params(ALL, 0, str(index)) for index in range(300)]
    for values, low, high in (
        ([one.zoom for one in found], 1, 2),
        ([one.x for one in found], 0, 1),
        ([one.y for one in found], 0, 1),
        ([one.brightness for one in found], 0.6, 1.4),
        ([one.contrast for one in found], 0.6, 1.4),
        ([one.saturation for one in found], 0.6, 1.4),
        ([one.hue for one in found], -0.04, 0.04),
    ):
        span = high - low
        assert low <= min(values) < low + 0.05 * span and high - 0.05 * span < max(values) <= high
    assert 100 < sum(one.flip for one in found) < 200


def test_two_variants_are_an_image_and_its_mirror():
    for index in range(20):
        flips = [sample_params(Augmentation(flip=True), 0, str(index), variant).flip for variant in range(4)]
        assert sorted(flips[:2]) == [False, True] and flips[:2] == flips[2:]


def test_variants_that_can_differ():
    assert Augmentation().distinct(7) == 1
    assert Augmentation(flip=True).distinct(7) == 2
    assert Augmentation(crop=0.1).distinct(7) == 7
    assert Augmentation(colour=0.1).distinct(1) == 1


@pytest.mark.parametrize("name, value", [("crop", 0.95), ("crop", -0.1), ("colour", 1.5)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be in .*got {value}"):
        Augmentation(**{name: value})


def test_crop_takes_the_placement(pixels):
    assert torch.equal(augment_image(pixels, AugmentationParams(), PLACEMENT, BUCKET), pixels[:, 2:5, 1:5])


def test_flip_mirrors_what_was_cropped(pixels):
    flipped = augment_image(pixels, AugmentationParams(flip=True), PLACEMENT, BUCKET)
    assert torch.equal(flipped, pixels[:, 2:5, 1:5].flip(-1))
    assert encoded_crop_left(AugmentationParams(flip=True), PLACEMENT, BUCKET) == 8 - 4 - 1
    assert encoded_crop_left(AugmentationParams(), PLACEMENT, BUCKET) == 1


def test_mask_gets_the_same_frame_and_no_colour(pixels):
    params = AugmentationParams(flip=True, brightness=0.5, contrast=0.5)
    mask = augment_mask(pixels[:1], params, PLACEMENT, BUCKET)
    assert torch.equal(mask, pixels[:1, 2:5, 1:5].flip(-1))


def test_colour_steps_do_what_they_say(pixels):
    whole = Placement(8, 5, 0, 0), Bucket(8, 5)
    dark = augment_image(pixels, AugmentationParams(brightness=0.5), *whole)
    assert torch.allclose(dark, pixels * 0.5, atol=1e-6)
    grey = augment_image(pixels, AugmentationParams(saturation=0.0), *whole)
    assert torch.allclose(grey[0], grey[1], atol=1e-5) and torch.allclose(grey[1], grey[2], atol=1e-5)
    flat = augment_image(pixels, AugmentationParams(contrast=0.0), *whole)
    assert flat.std() < 1e-5
    red = torch.zeros(3, 5, 8)
    red[0] = 1
    turned = augment_image(red, AugmentationParams(hue=1 / 3), *whole)
    assert turned[0].max() < 0.01 and turned[1].min() > 0.99, "a third of a turn makes red green"


def test_colours_stay_in_range(pixels):
    bright = augment_image(
        pixels, AugmentationParams(brightness=1.9, contrast=1.9, saturation=1.9), Placement(8, 5, 0, 0), Bucket(8, 5)
    )
    assert bright.min() >= 0 and bright.max() <= 1


def test_global_generators_are_left_alone(pixels):
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    for index in range(5):
        augment_image(pixels, sample_params(ALL, 0, str(index)), PLACEMENT, BUCKET)
    assert torch.equal(torch.get_rng_state(), torch_state) and random.getstate() == python_state
