"""Aspect buckets and where an image lies in its own."""

import math

import pytest

from diff2flow_kit.d2f_data.image_sets.buckets import (
    Bucket,
    Placement,
    largest_zoom,
    make_buckets,
    nearest_bucket,
    needs_upscaling,
    place,
)


@pytest.mark.parametrize("resolution, step", [(512, 64), (768, 64), (1024, 64), (512, 8), (96, 32), (520, 64)])
def test_buckets_have_nearly_equal_area_and_sides_of_the_step(resolution, step):
    buckets = make_buckets(resolution, step)
    assert Bucket(resolution, resolution) in buckets
    assert len(set(buckets)) == len(buckets) and buckets == sorted(buckets)
    for bucket in buckets:
        assert 7 / 8 <= bucket.width * bucket.height / resolution**2 <= 9 / 8
        assert Bucket(bucket.height, bucket.width) in buckets
        if bucket != Bucket(resolution, resolution):
            assert bucket.width % step == 0 and bucket.height % step == 0


def test_known_buckets_of_stable_diffusion():
    names = {str(bucket) for bucket in make_buckets(512)}
    assert {"512x512", "448x576", "576x448", "384x640", "640x384", "320x768", "256x1024"} <= names


@pytest.mark.parametrize("resolution, step, named", [(500, 64, "resolution is 500"), (512, 20, "bucket step is 20")])
def test_sizes_must_suit_the_vae(resolution, step, named):
    with pytest.raises(ValueError, match=named + r".*multiple of 8, such as (496|504|16|24)"):
        make_buckets(resolution, step)


@pytest.mark.parametrize(
    "size, bucket",
    [
        ((3000, 3000), "512x512"),
        ((640, 480), "576x448"),
        ((480, 640), "448x576"),
        ((1920, 1080), "704x384"),
        ((9000, 500), "1024x256"),
    ],
)
def test_nearest_aspect(size, bucket):
    assert str(nearest_bucket(*size, make_buckets(512))) == bucket


def test_nearest_is_nearest_in_the_logarithm():
    buckets = make_buckets(512)
    for width in range(200, 1200, 37):
        chosen = nearest_bucket(width, 500, buckets)
        distance = [abs(math.log(width / 500 * bucket.height / bucket.width)) for bucket in buckets]
        assert abs(math.log(width / 500 * chosen.height / chosen.width)) == pytest.approx(min(distance), abs=1e-8)


def test_of_two_alike_the_larger_is_taken():
    buckets = [Bucket(64, 64), Bucket(128, 128), Bucket(96, 96)]
    assert nearest_bucket(100, 100, buckets) == Bucket(128, 128)


def test_place_covers_and_centres():
    assert place(515, 512, Bucket(512, 512)) == Placement(515, 512, 2, 0)
    assert place(1000, 500, Bucket(512, 512)) == Placement(1024, 512, 256, 0)
    assert place(500, 1000, Bucket(512, 512)) == Placement(512, 1024, 0, 256)
    assert place(500, 1000, Bucket(512, 512), x=0, y=1) == Placement(512, 1024, 0, 512)


def test_zoom_shows_less():
    assert place(512, 512, Bucket(512, 512), zoom=2) == Placement(1024, 1024, 256, 256)


@pytest.mark.parametrize("width", [511, 512, 513, 700, 1023])
@pytest.mark.parametrize("height", [511, 640, 997])
@pytest.mark.parametrize("zoom", [1.0, 1.37])
@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
def test_the_crop_is_always_inside(width, height, zoom, position):
    bucket = nearest_bucket(width, height, make_buckets(512))
    found = place(width, height, bucket, zoom, position, position)
    assert 0 <= found.left <= found.width - bucket.width
    assert 0 <= found.top <= found.height - bucket.height


def test_upscaling_is_seen():
    bucket = Bucket(512, 512)
    assert not needs_upscaling(512, 600, bucket)
    assert needs_upscaling(511, 600, bucket)
    assert largest_zoom(1024, 1536, bucket) == 2
    assert largest_zoom(100, 100, bucket) == 1
