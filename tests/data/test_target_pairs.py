"""Image-target pairs: matching by name, one placement for both, raw values exactly as stored."""

import numpy as np
import pytest
import torch
from PIL import Image

from diff2flow_kit.d2f_data.image_sets.buckets import Bucket
from diff2flow_kit.d2f_data.image_sets.images import InvalidImageError
from diff2flow_kit.d2f_data.image_sets.raw_targets import read_raw, read_raw_size
from diff2flow_kit.d2f_data.image_sets.target_pair_tensors import describe_target_pairs, read_target_pairs
from diff2flow_kit.d2f_data.image_sets.target_pairs import RawValues, TargetPairSettings, find_target_pairs, plan_rows


@pytest.fixture
def folders(tmp_path):
    paths = tmp_path / "images", tmp_path / "targets"
    for path in paths:
        path.mkdir()
    return paths


def ramp(width=96, height=96, top=250):
    """A ramp in which neighbouring pixels differ, (H, W) uint8."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.round((0.7 * x + 0.3 * y) * (top - 5) + 5).astype(np.uint8)


def save_grey(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def save_array(path, values):
    np.save(path, values)
    return path


def load(folders, **settings):
    """(pairs, {name: reason} of the files that were left out)."""
    settings = TargetPairSettings(**{"resolution": 96, "step": 32, **settings})
    pairs, invalid = find_target_pairs(*folders, settings.raw is not None)
    *_, found = read_target_pairs(plan_rows(pairs, settings, invalid), settings.raw, invalid)
    return found, {file.name: file.reason for file in found.invalid}


# Matching


def test_images_and_targets_are_matched_by_path_without_suffix(folders):
    images, targets = folders
    for name in ("a.jpg", "sub/a.png", "b.c.png"):
        save_grey(images / name, ramp())
    for name in ("a.png", "sub/a.tif", "b.c.webp"):
        save_grey(targets / name, ramp())
    pairs, invalid = find_target_pairs(images, targets, raw=False)
    names = [(pair.name, pair.image.name, pair.target.name) for pair in pairs]
    assert names == [("a", "a.jpg", "a.png"), ("b.c", "b.c.png", "b.c.webp"), ("sub/a", "a.png", "a.tif")]
    assert not invalid


def test_files_without_exactly_one_counterpart_are_named(folders):
    images, targets = folders
    for name in ("a.png", "lonely.png", "twice.jpg", "twice.png"):
        save_grey(images / name, ramp())
    for name in ("a.png", "twice.png", "nobody.png"):
        save_grey(targets / name, ramp())
    (targets / "b.exr").write_bytes(b"x")
    pairs, invalid = find_target_pairs(images, targets, raw=True)
    assert [pair.name for pair in pairs] == ["a", "twice"]
    reasons = {file.name: file.reason for file in invalid}
    assert "twice.jpg has the same name; remove one of them" in reasons["image twice.png"]
    assert reasons["image lonely.png"] == f"no file lonely.* in {targets}"
    assert reasons["target nobody.png"] == f"no file nobody.* in {images}"
    assert ".exr cannot be read" in reasons["target b.exr"] and len(reasons) == 4


@pytest.mark.parametrize("swap", [False, True])
def test_one_folder_may_be_inside_the_other(tmp_path, swap):
    save_grey(tmp_path / "a.png", ramp())
    save_grey(tmp_path / "inner" / "a.png", ramp())
    paths = (tmp_path / "inner", tmp_path) if swap else (tmp_path, tmp_path / "inner")
    pairs, invalid = find_target_pairs(*paths, raw=False)
    assert [pair.name for pair in pairs] == ["a"] and not invalid
    with pytest.raises(ValueError, match="are the same folder"):
        find_target_pairs(tmp_path, tmp_path / "inner" / "..", raw=False)


def test_arrays_are_targets_of_raw_values_only(folders):
    save_grey(folders[0] / "a.png", ramp())
    save_array(folders[1] / "a.npy", ramp())
    assert len(find_target_pairs(*folders, raw=True)[0]) == 1
    assert not find_target_pairs(*folders, raw=False)[0]


# Raw values

STORED = {
    "8-bit PNG": ("a.png", np.uint8, 255),
    "16-bit PNG": ("a.png", np.uint16, 65535),
    "16-bit TIFF": ("a.tif", np.uint16, 65535),
    "32-bit integers": ("a.tif", np.int32, 100_000),
    "32-bit floats": ("a.tiff", np.float32, 1.25),
    "array of halves": ("a.npy", np.float16, 12.5),
    "array of doubles": ("a.npy", np.float64, -3.75),
    "array of integers": ("a.npy", np.uint16, 65535),
}


@pytest.mark.parametrize("kind", STORED)
def test_values_are_read_as_they_are_stored(tmp_path, kind):
    name, dtype, high = STORED[kind]
    values = np.linspace(0, high, 24 * 16).reshape(16, 24).astype(dtype)
    save = save_array if name.endswith("npy") else save_grey
    path = save(tmp_path / name, values)
    assert read_raw_size(path) == (24, 16)
    read = read_raw(path)
    assert read.dtype == np.float32 and np.array_equal(read, values.astype(np.float32))


@pytest.mark.parametrize("shape", [(16, 24, 1), (1, 16, 24)])
def test_arrays_of_one_channel(tmp_path, shape):
    values = np.arange(16 * 24, dtype=np.float32)
    path = save_array(tmp_path / "a.npy", values.reshape(shape))
    assert read_raw_size(path) == (24, 16) and np.array_equal(read_raw(path).ravel(), values)


BROKEN = {
    "pickled": (np.array([[{"a": 1}] * 16] * 16, dtype=object), "damaged, truncated or not an array of numbers"),
    "three channels": (np.zeros((16, 16, 3)), r"float64 of shape \(16, 16, 3\); save integers or floats"),
    "complex": (np.zeros((16, 16), dtype=np.complex64), "holds complex64"),
    "tiny": (np.zeros((4, 16)), "16 x 4 is not allowed; sides must have at least 8 pixels"),
    "list": (np.zeros(100), r"of shape \(100,\)"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_arrays_that_cannot_be_used(tmp_path, kind):
    values, words = BROKEN[kind]
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(InvalidImageError, match=words):
        read_raw_size(tmp_path / "a.npy")


def test_arrays_that_are_truncated_or_something_else(tmp_path):
    path = save_array(tmp_path / "a.npy", ramp())
    for content in (path.read_bytes()[:500], b"", b"hello", b"PK\x03\x04" + b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(InvalidImageError, match="damaged, truncated"):
            read_raw_size(path)


@pytest.mark.parametrize("mode", ["RGB", "P", "LA"])
def test_colour_images_have_no_raw_values(tmp_path, mode):
    Image.new(mode, (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(InvalidImageError, match=f"has mode {mode} instead of one value per pixel; save it as"):
        read_raw(tmp_path / "a.png")


# One placement for both


@pytest.mark.parametrize("size", [(96, 96), (300, 200), (90, 170), (128, 64)])
@pytest.mark.parametrize("flip", ["off", "both"])
def test_image_and_target_are_placed_alike(folders, size, flip):
    values = ramp(*size)
    save_grey(folders[0] / "a.png", values)
    save_array(folders[1] / "a.npy", values)
    found, invalid = load(folders, flip=flip, raw=RawValues())
    assert not invalid and len(found.images[0]) == (2 if flip == "both" else 1)
    # An image is blended and a value is not: at most the ramp between two pixels lies between them.
    between = 2 * max(96 / size[0], 1) / 96 * 255 + 2 * 255 / min(size)
    difference = (found.images[0] * 255 - found.targets[0]).abs()
    assert float(difference.max()) < between and float(difference.mean()) < between / 4


def test_targets_of_another_resolution_fit(folders):
    save_grey(folders[0] / "a.png", ramp(192, 192))
    save_grey(folders[1] / "a.png", ramp(48, 48))
    found, invalid = load(folders)
    assert not invalid and float((found.images[0] - found.targets[0]).abs().mean()) < 0.02


def test_mirrored_rows_are_mirrors(folders):
    save_grey(folders[0] / "a.png", ramp())
    save_array(folders[1] / "a.npy", ramp())
    found, _ = load(folders, flip="both", raw=RawValues())
    assert found.names == [["a", "a mirrored"]]
    for part, width in ((found.images[0], 2), (found.targets[0], 2), (found.valid[0], 2)):
        assert torch.equal(part[1].flip(width - 1), part[0])


def test_random_flips_are_of_both_and_from_the_seed(folders):
    for i in range(12):
        values = np.roll(ramp(), i, 0)
        save_grey(folders[0] / f"{i:02}.png", values)
        save_array(folders[1] / f"{i:02}.npy", values)
    sets = [load(folders, flip="random", raw=RawValues(), seed=seed)[0] for seed in (1, 1, 2)]
    flipped = [[name.endswith("mirrored") for name in found.names[0]] for found in sets]
    assert flipped[0] == flipped[1] != flipped[2] and 0 < sum(flipped[0]) < 12
    for found in sets:
        torch.testing.assert_close(found.images[0] * 255, found.targets[0])


def test_pairs_are_in_the_buckets_of_their_images(folders):
    for name, size in (("a", (96, 96)), ("b", (200, 100)), ("c", (120, 120))):
        save_grey(folders[0] / f"{name}.png", ramp(*size))
        save_grey(folders[1] / f"{name}.png", ramp(*size))
    found, _ = load(folders)
    assert found.names == [["a", "c"], ["b"]] and found.buckets == [Bucket(96, 96), Bucket(128, 64)]
    assert [tuple(images.shape) for images in found.images] == [(2, 96, 96, 3), (1, 64, 128, 3)]
    assert [tuple(valid.shape) for valid in found.valid] == [(2, 96, 96), (1, 64, 128)]


# What is valid


def depth_with_holes():
    """Millimetres in two flat halves, a hole of zeros, a NaN and an infinity."""
    values = np.full((192, 192), 1000.0, dtype=np.float32)
    values[:, 96:] = 9000
    values[:64, :64] = 0
    values[100:110, 10:20], values[150:160, 10:20] = np.nan, np.inf
    return values


def test_raw_values_are_never_blended(folders):
    save_grey(folders[0] / "a.png", ramp(192, 192))
    save_array(folders[1] / "a.npy", depth_with_holes())
    found, _ = load(folders, raw=RawValues(scale=0.001))
    target, valid = found.targets[0][0], found.valid[0][0]
    assert set(target.unique().tolist()) == {0.0, 1.0, 9.0} and set(valid.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(valid == 0, target[..., 0] == 0) and bool((valid[:32, :32] == 0).all())
    assert torch.equal(target[..., 0], target[..., 1]) and torch.equal(target[..., 0], target[..., 2])
    assert float(valid.mean()) == pytest.approx(1 - (64 * 64 + 200) / 192**2, abs=2e-3)


def test_another_value_may_mark_invalid_pixels(folders):
    save_grey(folders[0] / "a.png", ramp())
    values = np.full((96, 96), -9999.0, dtype=np.float32)
    values[:, 48:] = 0
    save_array(folders[1] / "a.npy", values)
    found, _ = load(folders, raw=RawValues(scale=2.0, invalid=-9999.0))
    assert float(found.valid[0][0, :, 48:].min()) == 1 and float(found.valid[0][0, :, :48].max()) == 0


def test_colour_targets_are_valid_everywhere(folders):
    save_grey(folders[0] / "a.png", ramp())
    save_grey(folders[1] / "a.png", ramp() * 0)
    found, _ = load(folders)
    assert float(found.valid[0].min()) == 1 and found.targets[0].shape == (1, 96, 96, 3)


# What cannot be used, and the report


def test_invalid_files_are_named_and_the_rest_is_read(folders):
    images, targets = folders
    for name in "abcdef":
        save_grey(images / f"{name}.png", ramp())
        save_grey(targets / f"{name}.png", ramp())
    save_grey(targets / "b.png", ramp(96, 64))
    (images / "c.png").write_bytes((images / "c.png").read_bytes()[:200])
    (targets / "d.png").write_text("hello")
    save_grey(targets / "e.png", ramp() * 0)
    found, invalid = load(folders, raw=RawValues())
    assert found.names == [["a", "f"]] and len(found.images[0]) == len(found.targets[0]) == len(found.valid[0]) == 2
    assert "the target is 96 x 64, but the image is 96 x 96, which is another aspect ratio" in invalid["b"]
    assert "c.png: damaged or truncated" in invalid["c"] and "d.png: not an image" in invalid["d"]
    assert "no value other than 0" in invalid["e"]
    assert float((found.images[0] * 255 - found.targets[0]).abs().max()) < 1e-3, "rows of others moved up"
    report = describe_target_pairs(found, *folders)
    assert "2 pairs of" in report and "96x96: 2 pairs" in report and "left out (4):" in report and "e: the t" in report


@pytest.mark.parametrize("raw", [None, RawValues()])
def test_the_report_says_what_is_held(folders, raw):
    for name in "ab":
        save_grey(folders[0] / f"{name}.png", ramp())
        save_grey(folders[1] / f"{name}.png", ramp())
    save_grey(folders[1] / "b.png", ramp() * 0)  # refused as raw values
    found, _ = load(folders, raw=raw)
    planes = 2 * 7 if raw is None else 5
    assert found.nbytes == planes * 96 * 96 * 4
    assert f"({found.nbytes} bytes)" in describe_target_pairs(found, *folders)
    assert "100.0% of the targets' pixels are valid" in describe_target_pairs(found, *folders)


def test_nothing_is_an_empty_set(folders):
    assert load(folders)[0].images == []


def test_unknown_flips():
    with pytest.raises(ValueError, match="unknown flip 'up'; allowed are off, random, both"):
        TargetPairSettings(flip="up")


# Other kinds of files


def test_arrays_and_float_maps_are_read_exactly(tmp_path):
    values = (ramp(40, 24) / 7).astype(np.float32)
    np.savez(tmp_path / "a.npz", depth=values)
    np.savez_compressed(tmp_path / "b.npz", values[None])
    (tmp_path / "c.pfm").write_bytes(b"Pf\n40 24\n-1.0\n" + values[::-1].astype("<f4").tobytes())
    for name in ("a.npz", "b.npz", "c.pfm"):
        assert read_raw_size(tmp_path / name) == (40, 24)
        assert np.array_equal(read_raw(tmp_path / name), values)


@pytest.mark.parametrize(("name", "write", "words"), [
    ("two.npz", lambda path: np.savez(path, a=ramp(), b=ramp()), "it has the arrays a, b, and one is needed"),
    ("none.npz", lambda path: np.savez(path), "it has the arrays none"),
    ("broken.npz", lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "damaged, truncated or not an array"),
    ("object.npz", lambda path: np.savez(path, a=np.array([{}], dtype=object)), "damaged, truncated or not an array"),
    ("cut.pfm", lambda path: path.write_bytes(b"Pf\n40 24\n-1.0\n" + bytes(100)), "truncated|damaged"),
])  # fmt: skip
def test_broken_arrays_are_named(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(InvalidImageError, match=words):
        read_raw(tmp_path / name)


@pytest.mark.parametrize("suffix", ["exr", "mat", "h5", "npz"])
def test_a_target_of_a_kind_that_is_not_read_is_said_where_it_is_missed(folders, suffix):
    images, targets = folders
    save_grey(images / "a.png", ramp())
    (targets / f"a.{suffix}").write_bytes(b"x")
    _, invalid = find_target_pairs(images, targets, raw=False)
    listed = " ".join(map(str, invalid))
    assert f"a.{suffix} cannot" in listed or f".{suffix} cannot be read" in listed
    assert "image a.png" in listed
