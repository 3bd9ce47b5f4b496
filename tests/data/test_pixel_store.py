"""Pixels between the check of an image and its encoding: each file is decoded once, and the latents are the same."""

import pytest
import torch
from PIL import Image

from diff2flow_kit.d2f_data.image_sets import samples as samples_module
from diff2flow_kit.d2f_data.image_sets import training_set
from diff2flow_kit.d2f_data.image_sets.augment import Augmentation
from diff2flow_kit.d2f_data.image_sets.folder import Captions, find_training_images
from diff2flow_kit.d2f_data.image_sets.latent_cache import Cache
from diff2flow_kit.d2f_data.image_sets.pixels.store import PixelStore
from diff2flow_kit.d2f_data.image_sets.report.sheet import contact_sheet
from diff2flow_kit.d2f_data.image_sets.samples import SetSettings, plan_set
from diff2flow_kit.d2f_data.image_sets.training_set import encode, read_pixels


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for number in range(4):
        noise = Image.effect_noise((100 + 40 * number, 120), 70)
        Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)]).save(root / f"{number}.png")
    return find_training_images(root, Captions("none"))[0]


def plan_of(images, folder, store=None):
    settings = SetSettings(96, 32, variants=2, augmentation=Augmentation(True, 0.3, 0.2), more=(64,))
    *_, plan = plan_set(images, settings, Cache(folder), "vae", store)
    return plan


@pytest.mark.parametrize("memory", [1 << 29, 10_000])
def test_the_pixels_are_those_of_the_file(images, tmp_path, memory):
    with PixelStore(tmp_path / "cache", memory) as store:
        plan = plan_of(images, tmp_path / "cache", store)
        assert len(plan.missing) == 16
        for sample in (*plan.missing, *reversed(plan.missing)):
            assert store.get(sample.key) is not None
            assert torch.equal(read_pixels(sample, store), read_pixels(sample))
    assert not list((tmp_path / "cache").iterdir()), "the temporary file has no name"


def test_every_file_is_decoded_once(images, tmp_path, monkeypatch):
    decoded, read = [], samples_module.read_image
    monkeypatch.setattr(samples_module, "read_image", lambda path: decoded.append(path) or read(path))
    monkeypatch.setattr(training_set, "read_image", lambda path: decoded.append(path) or read(path))
    with PixelStore(tmp_path / "cache") as store:
        plan = plan_of(images, tmp_path / "cache", store)
        list(encode(plan.missing, Cache(tmp_path / "cache"), lambda pixels, names: pixels.movedim(-1, 1), store))
        contact_sheet(plan.samples, store=store)
    assert sorted(decoded) == sorted(image.path for image in images)


def test_what_finds_no_room_is_decoded_again(images, tmp_path, monkeypatch):
    with PixelStore(tmp_path / "cache", most=60_000) as store:
        plan = plan_of(images, tmp_path / "cache", store)
        kept = [store.get(sample.key) is not None for sample in plan.missing]
        assert any(kept) and not all(kept)
        assert all(torch.equal(read_pixels(sample, store), read_pixels(sample)) for sample in plan.missing)


def test_a_full_disk_is_no_fault(images, tmp_path, monkeypatch):
    with PixelStore(tmp_path / "cache") as store:

        def full(data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(store._file, "write", full)
        plan = plan_of(images, tmp_path / "cache", store)
        assert all(store.get(sample.key) is None for sample in plan.missing)
        assert torch.equal(read_pixels(plan.missing[0], store), read_pixels(plan.missing[0]))
