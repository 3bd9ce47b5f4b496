"""Loss masks: which file is whose, the alpha channel, weights outside, padding."""

import pytest
import torch
from PIL import Image

from diff2flow_kit.d2f_data.image_sets.folder import Captions, find_training_images, read_folder
from diff2flow_kit.d2f_data.image_sets.latent_cache import Cache
from diff2flow_kit.d2f_data.image_sets.masks.pairing import MaskPairing
from diff2flow_kit.d2f_data.image_sets.samples import SetSettings, plan_set
from diff2flow_kit.d2f_data.image_sets.training_set import encode, gather, read_mask_pixels, read_pixels


def pairing(*names, own=()):
    return MaskPairing(names, lambda name: name in own)


@pytest.mark.parametrize(
    "image, mask",
    [
        ("a.jpg", "a-masklabel.png"),
        ("a.jpg", "a-masklabel.JPG"),
        ("a.jpg", "A-MaskLabel.webp"),
        ("a.jpg", "masks/a.jpg"),
        ("a.jpg", "masks/a.png"),
        ("a.jpg", "mask/a.png"),
        ("a.jpg", "Masks/A.PNG"),
        ("a.JPG", "MASK/a.bmp"),
        ("a.jpg", "masks/a.jpg.png"),
        ("a.jpg", "masks/a-masklabel.png"),
        ("sub/a.jpg", "sub/masks/a.png"),
        ("sub/a.jpg", "masks/sub/a.png"),
    ],
)
def test_every_convention_of_masks(image, mask):
    found = pairing(image, mask, "b.png")
    assert found.of(image) == mask and found.of("b.png") is None
    assert found.is_mask(mask) and not found.is_mask(image) and found.unused == []


@pytest.mark.parametrize("name", ["masks/b.png", "mask/a/b.png", "b-masklabel.png", "sub/MASKS/a.png"])
def test_a_mask_without_an_image_is_no_picture_and_is_named(name):
    found = pairing("a.png", name)
    assert found.is_mask(name) and found.unused == [name]


def test_of_two_masks_the_one_beside_the_image_counts():
    found = pairing("a.png", "masks/a.png", "a-masklabel.png")
    assert found.of("a.png") == "a-masklabel.png" and found.unused == ["masks/a.png"]


def test_only_a_caption_of_its_own_makes_a_picture_of_it():
    assert not pairing("b-masklabel.png", own=["b-masklabel.png"]).is_mask("b-masklabel.png")
    assert pairing("b.png", "b-masklabel.png", own=["b-masklabel.png"]).is_mask("b-masklabel.png")
    assert pairing("masks/c.png", own=["masks/c.png"]).is_mask("masks/c.png")


def test_masks_with_a_fallback_caption_are_not_trained_on(tmp_path):
    for name in ("a.jpg", "masks/a.jpg", "b.png", "mask/b.png", "mask/lost.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), "white").save(tmp_path / name)
    found = read_folder(tmp_path, Captions(fallback="x"))
    assert {image.name: image.mask for image in found.images} == {
        "a.jpg": tmp_path / "masks" / "a.jpg",
        "b.png": tmp_path / "mask" / "b.png",
    }
    assert "loss masks that no image uses, or uses another one instead of (1): mask/lost.png" in found.notes[0]


# Pixels


@pytest.fixture
def folder(tmp_path):
    """A picture whose right half is transparent, and an opaque one."""
    root = tmp_path / "set"
    root.mkdir()
    image = Image.new("RGBA", (96, 96), (255, 0, 0, 255))
    image.paste((255, 0, 0, 0), (48, 0, 96, 96))
    image.save(root / "a.png")
    Image.new("RGB", (96, 96), "blue").save(root / "b.png")
    return root


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def planned(folder, cache, **settings):
    images, _ = find_training_images(folder, Captions("none"))
    *_, plan = plan_set(images, SetSettings(**{"resolution": 96, "step": 32, **settings}), cache, "vae")
    return plan


def gathered(folder, cache, unmasked=0.0, **settings):
    plan = planned(folder, cache, **settings)
    list(encode(plan.missing, cache, lambda pixels, names: pixels.movedim(-1, 1)[..., ::8, ::8].clone()))
    return [gather(rows, cache, unmasked) for rows in plan.rows]


def test_the_alpha_channel_as_a_mask(folder, cache):
    (latent,) = gathered(folder, cache, alpha_mask=True)
    mask = latent["noise_mask"]
    assert mask[0, 0, :, :47].min() == 1 and mask[0, 0, :, 49:].max() == 0 and mask[1].min() == 1
    assert "noise_mask" not in gathered(folder, cache)[0], "the cache keeps both apart"
    assert [sample.transparent for sample in planned(folder, cache).samples] == [True, False]


def test_a_mask_file_counts_before_the_alpha_channel(folder, cache):
    Image.new("L", (96, 96), 255).save(folder / "a-masklabel.png")
    assert gathered(folder, cache, alpha_mask=True)[0]["noise_mask"].min() == 1


def test_an_invisible_image_is_invalid(folder, cache):
    Image.new("RGBA", (96, 96), (0, 0, 0, 0)).save(folder / "a.png")
    (file,) = planned(folder, cache, alpha_mask=True).invalid
    assert file.name == "a.png" and "completely transparent" in file.reason
    assert not planned(folder, cache).invalid


@pytest.mark.parametrize("unmasked", [0.0, 0.25, 1.0])
def test_the_weight_outside_of_a_mask(folder, cache, unmasked):
    (latent,) = gathered(folder, cache, unmasked, alpha_mask=True)
    assert latent["noise_mask"][0].min() == unmasked and latent["noise_mask"][0].max() == 1
    with pytest.raises(ValueError, match=r"unmasked_weight must be in \[0, 1\]"):
        SetSettings(unmasked=1.5)


# Padding


def test_a_padded_image_is_whole_and_its_padding_is_not_learned(folder, cache):
    for path in folder.iterdir():
        path.unlink()
    wide = Image.new("RGB", (800, 100), "blue")
    wide.paste("red", (0, 0, 8, 100))
    wide.paste("green", (792, 0, 800, 100))
    wide.save(folder / "wide.png")
    (cropped,), (padded,) = planned(folder, cache).samples, planned(folder, cache, pad=True).samples
    assert cropped.cut > 0.4 and padded.cut == 0 and padded.padded and not cropped.padded
    pixels, mask = read_pixels(padded), read_mask_pixels(padded)
    assert pixels.shape[1:] == mask.shape[1:] == (padded.bucket.height, padded.bucket.width)
    middle = padded.bucket.height // 2
    assert pixels[0, middle, 0] > 0.9 and pixels[1, middle, -1] > 0.4, "both ends are there"
    assert mask[0, middle].min() == 255 and mask[0, 0].max() == mask[0, -1].max() == 0
    assert mask.float().mean() / 255 == pytest.approx(padded.placement.height / padded.bucket.height, abs=1e-6)
    for unmasked in (0.0, 0.5):
        (latent,) = gathered(folder, cache, unmasked, pad=True)
        assert torch.equal(latent["noise_mask"][0] == 1, mask == 255) and latent["noise_mask"].min() == 0
    assert padded.sizes()["crop_w"] == padded.sizes()["crop_h"] == 0


def test_an_image_of_its_buckets_shape_is_not_padded(folder, cache):
    assert not any(sample.padded for sample in planned(folder, cache, pad=True).samples)
    assert planned(folder, cache, pad=True).samples == planned(folder, cache).samples


# Several resolutions


def test_every_image_at_every_resolution(folder, cache):
    plan = planned(folder, cache, more=(128, 96))
    assert [(str(sample.bucket), sample.image.name) for sample in plan.samples] == [
        ("96x96", "a.png"),
        ("96x96", "b.png"),
        ("128x128", "a.png"),
        ("128x128", "b.png"),
    ]
    plan = planned(folder, cache, more=(128,), upscale=False)
    assert {str(sample.bucket) for sample in plan.samples} == {"96x96"} and not plan.small
    assert len(planned(folder, cache, resolution=128, upscale=False).small) == 2
