"""From a folder to latents, with a stand-in for the VAE: means of 8 x 8 pixels."""

import pytest
import torch
from PIL import Image

from diff2flow_kit.d2f_data.image_sets import samples as samples_module
from diff2flow_kit.d2f_data.image_sets import training_set
from diff2flow_kit.d2f_data.image_sets.augment import Augmentation
from diff2flow_kit.d2f_data.image_sets.buckets import Bucket
from diff2flow_kit.d2f_data.image_sets.folder import Captions, InvalidFile, find_training_images
from diff2flow_kit.d2f_data.image_sets.latent_cache import Cache
from diff2flow_kit.d2f_data.image_sets.samples import SetSettings, plan_set
from diff2flow_kit.d2f_data.image_sets.set_report import EncodingStats, InvalidFilesError, contact_sheet, describe
from diff2flow_kit.d2f_data.image_sets.training_set import (
    batches,
    encode,
    encode_captions,
    gather,
    read_mask_pixels,
    read_pixels,
    with_options,
)

COLOURS = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255), "d": (255, 255, 0)}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """Two square images, a wide one and a tall one."""
    root = tmp_path / "set"
    root.mkdir()
    for (name, colour), size in zip(COLOURS.items(), [(128, 128), (256, 128), (100, 100), (64, 128)], strict=True):
        Image.new("RGB", size, colour).save(root / f"{name}.png")
    return root


class Encoder:
    """Means of 8 x 8 pixels as latents; counts its calls and the images in them, and keeps their names."""

    def __init__(self):
        self.calls, self.names = [], []

    def __call__(self, pixels, names):
        self.calls.append(len(pixels))
        self.names += names
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)


def plan_of(folder, cache, vae="vae", folder_repeats=False, **settings):
    images, invalid = find_training_images(folder, Captions("none"), folder_repeats)
    assert not invalid
    *_, plan = plan_set(images, SetSettings(**{"resolution": 96, "step": 32, **settings}), cache, vae)
    return plan


def run(folder, cache, **settings):
    """(plan, LATENT per bucket, number of images that were encoded)."""
    plan, encoder = plan_of(folder, cache, **settings), Encoder()
    list(encode(plan.missing, cache, encoder))
    return plan, [gather(rows, cache) for rows in plan.rows], sum(encoder.calls)


def names(plan):
    return [[sample.image.name[0] for sample in rows] for rows in plan.rows]


def test_the_encoder_is_told_the_names(folder, cache):
    plan, encoder = plan_of(folder, cache), Encoder()
    list(encode(plan.missing, cache, encoder))
    assert encoder.names == [sample.image.name for sample in plan.missing] and len(set(encoder.names)) == 4


def test_latents_line_up_with_the_rows(folder, cache):
    plan, latents, encoded = run(folder, cache)
    assert encoded == 4 and names(plan) == [["d"], ["a", "c"], ["b"]]
    assert [tuple(latent["samples"].shape) for latent in latents] == [(1, 3, 16, 8), (2, 3, 12, 12), (1, 3, 8, 16)]
    for rows, latent in zip(plan.rows, latents, strict=True):
        for sample, row in zip(rows, latent["samples"], strict=True):
            colour = torch.tensor(COLOURS[sample.image.name[0]]) / 255
            assert torch.allclose(row.mean((1, 2)), colour, atol=1e-3), sample.image.name
        assert "noise_mask" not in latent


def test_a_second_run_encodes_nothing_and_gives_the_same(folder, cache):
    _, first, _ = run(folder, cache)
    _, second, encoded = run(folder, cache)
    assert encoded == 0
    assert all(torch.equal(one["samples"], two["samples"]) for one, two in zip(first, second, strict=True))


def test_renamed_files_are_found_again_and_changed_ones_are_not(folder, cache):
    run(folder, cache)
    (folder / "a.png").rename(folder / "z.png")
    assert run(folder, cache)[2] == 0
    Image.new("RGB", (128, 128), "white").save(folder / "z.png")
    assert run(folder, cache)[2] == 1


@pytest.mark.parametrize("change", [{"vae": "other"}, {"resolution": 128}, {"augmentation": Augmentation(colour=0.1)}])
def test_what_changes_the_latents_encodes_them_again(folder, cache, change):
    run(folder, cache)
    assert run(folder, cache, **change)[2] == 4
    assert run(folder, cache)[2] == 0, "and back again costs nothing"


@pytest.mark.parametrize("change", [{"repeats": 3}, {"seed": 9}, {"variants": 5}])
def test_what_leaves_the_latents_does_not(folder, cache, change):
    run(folder, cache)
    assert run(folder, cache, **change)[2] == 0


def test_repeats_are_rows_of_one_latent(folder, cache):
    (folder / "3_more").mkdir()
    (folder / "c.png").rename(folder / "3_more" / "c.png")
    plan, latents, encoded = run(folder, cache, repeats=2, folder_repeats=True)
    assert encoded == 4
    squares = latents[1]["samples"]
    assert [sample.image.name for sample in plan.rows[1]] == ["3_more/c.png"] * 6 + ["a.png"] * 2
    assert len(squares) == 8 and all(torch.equal(row, squares[0]) for row in squares[:6])
    assert not torch.equal(squares[5], squares[6])


def test_variants_follow_each_other_and_differ(folder, cache):
    settings = {"variants": 3, "augmentation": Augmentation(flip=True, crop=0.5, colour=0.5)}
    plan, latents, encoded = run(folder, cache, **settings)
    assert encoded == 12 and names(plan)[1] == ["a", "a", "a", "c", "c", "c"]
    rows = latents[1]["samples"]
    assert not torch.equal(rows[0], rows[1]) and not torch.equal(rows[1], rows[2])
    again = run(folder, Cache(cache.folder / "fresh"), **settings)[1]
    assert torch.equal(again[1]["samples"], rows), "the same seed gives the same set"
    assert not torch.equal(run(folder, cache, **settings, seed=1)[1][1]["samples"], rows)


def test_identical_variants_are_not_encoded(folder, cache):
    assert len(plan_of(folder, cache, variants=9).samples) == 4
    assert len(plan_of(folder, cache, variants=9, augmentation=Augmentation(flip=True)).samples) == 8


def test_an_image_lands_where_it_should(tmp_path, cache):
    """A gradient from left to right, cropped in the middle of the longer side."""
    (tmp_path / "set").mkdir()
    Image.linear_gradient("L").rotate(90).resize((512, 128)).convert("RGB").save(tmp_path / "set" / "a.png")
    (sample,) = plan_of(tmp_path / "set", cache, resolution=96, step=96).samples
    assert sample.bucket == Bucket(96, 96) and sample.size == (512, 128)
    pixels = read_pixels(sample)
    assert pixels[0, 40, 0] == pytest.approx((512 - 128) / 2 / 512, abs=0.02)
    assert pixels[0, 40, -1] == pytest.approx((512 + 128) / 2 / 512, abs=0.02)
    assert sample.sizes() == {
        "width": 512,
        "height": 128,
        "crop_w": 144,
        "crop_h": 0,
        "target_width": 96,
        "target_height": 96,
    }


def test_crop_coordinates_of_a_mirrored_image_are_mirrored(tmp_path, cache):
    (tmp_path / "set").mkdir()
    Image.new("RGB", (512, 256)).save(tmp_path / "set" / "a.png")
    settings = {"augmentation": Augmentation(flip=True, crop=0.4), "variants": 2, "step": 96}
    for sample in plan_of(tmp_path / "set", cache, **settings).samples:
        left, placement = sample.sizes()["crop_w"], sample.placement
        assert left == (placement.width - 96 - placement.left if sample.params.flip else placement.left)


def test_small_images_are_left_out_on_request(folder, cache):
    plan = plan_of(folder, cache, resolution=128, step=32, upscale=False)
    assert names(plan) == [["a"], ["b"]]
    assert InvalidFile("c.png", "100 x 100 is smaller than its bucket 128x128") in plan.small and len(plan.small) == 2
    assert not plan.invalid
    assert not plan_of(folder, cache, resolution=128).small


def test_crops_do_not_enlarge_when_upscaling_is_off(folder, cache):
    plan = plan_of(folder, cache, upscale=False, augmentation=Augmentation(crop=0.9), variants=20)
    assert plan.samples
    for sample in plan.samples:
        assert sample.placement.width <= sample.size[0] and sample.placement.height <= sample.size[1]


def test_damaged_images_are_found_before_anything_is_encoded(folder, cache):
    path = folder / "a.png"
    Image.effect_noise((128, 128), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:20000])
    plan = plan_of(folder, cache)
    assert [file.name for file in plan.invalid] == ["a.png"] and "damaged" in plan.invalid[0].reason
    assert len(plan.samples) == 3


def test_an_image_that_is_damaged_after_planning_is_named(folder, cache):
    plan = plan_of(folder, cache)
    (folder / "a.png").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"a\.png was changed while the node was running: not an image"):
        list(encode(plan.missing, cache, Encoder()))


def test_what_is_cached_is_not_decoded_again(folder, cache, monkeypatch):
    run(folder, cache)
    monkeypatch.setattr(samples_module, "read_image", lambda path: pytest.fail("decoded again"))
    monkeypatch.setattr(training_set, "read_image", lambda path: pytest.fail("decoded again"))
    assert run(folder, cache)[2] == 0


def test_batches_hold_one_bucket_and_a_fixed_number_of_pixels(folder, cache, monkeypatch):
    for index in range(5):
        Image.new("RGB", (128, 128), (index, 0, 0)).save(folder / f"x{index}.png")
    monkeypatch.setattr(training_set, "BATCH_PIXELS", 3 * 96 * 96)
    found = list(batches(plan_of(folder, cache).missing))
    assert [len(batch) for batch in found] == [1, 3, 3, 1, 1]
    assert all(len({sample.bucket for sample in batch}) == 1 for batch in found)


def test_one_image_under_two_names_is_encoded_once(folder, cache):
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    plan, latents, encoded = run(folder, cache)
    assert encoded == 4 and len(plan.samples) == 5
    assert torch.equal(latents[1]["samples"][0], latents[1]["samples"][2])


def test_stopping_between_batches_keeps_what_is_done(folder, cache, monkeypatch):
    monkeypatch.setattr(training_set, "BATCH_PIXELS", 1)
    steps = encode(plan_of(folder, cache).missing, cache, Encoder())
    next(steps), next(steps)
    steps.close()
    assert len(plan_of(folder, cache).missing) == 2


def test_a_latent_that_was_removed_is_named(folder, cache):
    plan, _, _ = run(folder, cache)
    cache.path(plan.samples[0].key).unlink()
    with pytest.raises(ValueError, match=plan.samples[0].key):
        gather(plan.rows[0], cache)


# Masks


@pytest.fixture
def masked(folder):
    """The left half of a.png is masked out."""
    mask = Image.new("L", (128, 128), 255)
    mask.paste(0, (0, 0, 64, 128))
    mask.save(folder / "a-masklabel.png")
    return folder


def test_masks_go_with_their_images(masked, cache):
    plan, latents, _ = run(masked, cache)
    assert ["noise_mask" in latent for latent in latents] == [False, True, False]
    mask = latents[1]["noise_mask"]
    assert mask.shape == (2, 1, 96, 96) and mask.dtype == torch.float32
    assert names(plan)[1] == ["a", "c"]
    assert mask[0, 0, :, :47].max() < 0.01 and mask[0, 0, :, 49:].min() > 0.99 and mask[1].min() == 1


def test_masks_are_mirrored_with_their_images(masked, cache):
    plan = plan_of(masked, cache, augmentation=Augmentation(flip=True), variants=2)
    for sample in plan.samples:
        if sample.image.mask is not None:
            mask = read_mask_pixels(sample)
            upright = mask.flip(-1) if sample.params.flip else mask
            assert upright[..., :40].max() == 0 and upright[..., -40:].min() == 255


def test_a_changed_mask_is_taken_up(masked, cache):
    run(masked, cache)
    Image.new("L", (128, 128), 255).save(masked / "a-masklabel.png")
    _, latents, encoded = run(masked, cache)
    assert encoded == 1 and latents[1]["noise_mask"].min() == 1


@pytest.mark.parametrize(
    "size, colour, reason", [((128, 64), 255, "another aspect ratio"), ((128, 128), 0, "completely black")]
)
def test_invalid_masks(folder, cache, size, colour, reason):
    Image.new("L", size, colour).save(folder / "a-masklabel.png")
    plan = plan_of(folder, cache)
    [file] = plan.invalid
    assert file.name == "a.png" and "a-masklabel.png" in file.reason and reason in file.reason


def test_a_mask_of_another_size_but_the_same_shape_will_do(folder, cache):
    Image.new("L", (64, 64), 255).save(folder / "a-masklabel.png")
    assert run(folder, cache)[1][1]["noise_mask"].shape == (2, 1, 96, 96)


# Captions, settings, report


def test_captions_are_encoded_once(cache):
    def conditioning(text):
        encoded.append(text)
        return [[torch.full((1, 2, 3), float(len(text))), {"pooled_output": None}]]

    encoded, found = [], {}
    assert list(encode_captions(["", "a", "bb"], cache, "clip", conditioning, found)) == [1, 2, 3]
    again = {}
    assert list(encode_captions(["a", "new", "bb"], cache, "clip", conditioning, again)) == [0, 1, 1]
    assert encoded == ["", "a", "bb", "new"] and torch.equal(again["bb"][0][0], found["bb"][0][0])
    list(encode_captions(["a"], cache, "another clip", conditioning, {}))
    assert encoded[-1] == "a"


def test_captions_with_hooks_are_encoded_every_time(cache):
    def conditioning(text):
        return [[torch.ones(1), {"hooks": cache}]]

    for _ in range(2):
        found = {}
        assert list(encode_captions(["a"], cache, "clip", conditioning, found)) == [1]
        assert found["a"][0][1]["hooks"] is cache


def test_sizes_share_the_tensors():
    conditioning = [[torch.ones(1, 2, 3), {"pooled_output": torch.ones(1)}]]
    sized = with_options(conditioning, {"width": 5})
    assert sized[0][0] is conditioning[0][0] and sized[0][1]["width"] == 5 and "width" not in conditioning[0][1]


@pytest.mark.parametrize("name", ["repeats", "variants"])
def test_counts_start_at_one(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SetSettings(**{name: 0})


def test_report_counts_and_names(masked, cache):
    settings = SetSettings(resolution=96, step=32, variants=4, repeats=2)
    plan = plan_of(masked, cache, variants=4, repeats=2)
    plan.invalid.extend(InvalidFile(f"bad{number}.png", "the file is empty") for number in range(25))
    report = describe(masked, cache.folder, plan, settings, EncodingStats(3, 1, 0, 2, 1_500_000))
    for text in (
        "4 images, 8 rows in 3 buckets, 1 with a loss mask",
        "96x96: 4 rows of 2 images",
        "latents: 3 from the cache, 1 encoded",
        "captions: 0 from the cache, 2 encoded",
        "1.5 MB",
        "variants: 1 instead of 4",
        "invalid files, skipped (25)",
        "bad19.png: the file is empty",
        "and 5 more",
    ):
        assert text in report, text
    assert "bad20.png" not in report
    assert "bad0.png: the file is empty" in str(InvalidFilesError(masked, plan.invalid))


@pytest.mark.parametrize("count, shape", [(1, (240, 192)), (4, (240, 768)), (6, (480, 768)), (40, (960, 768))])
def test_contact_sheet(folder, cache, count, shape):
    samples = (plan_of(folder, cache).samples * 10)[:count]
    sheet = contact_sheet(samples)
    assert sheet.shape == (1, *shape, 3) and sheet.dtype == torch.float32
    assert torch.allclose(sheet[0, 96, 96], torch.tensor([1.0, 1.0, 0.0]), atol=0.05), "d.png comes first, yellow"
    assert sheet[0, 196:, :].min() < 0.5, "sizes are written below"


def test_the_global_generator_is_left_alone(folder, cache):
    before = torch.get_rng_state()
    run(folder, cache, augmentation=Augmentation(flip=True, crop=0.5, colour=0.5), variants=2)
    assert torch.equal(torch.get_rng_state(), before)
