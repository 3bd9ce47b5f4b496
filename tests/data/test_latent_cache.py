"""The cache: what it stores, which files it rejects, and what its keys depend on."""

import logging

import pytest
import torch

from diff2flow_kit.d2f_data.image_sets.latent_cache import (
    FORMAT,
    SPACE,
    Cache,
    cache_key,
    folder_size,
    pack_conditioning,
    unpack_conditioning,
)

TENSORS = {"latent": torch.arange(48.0).reshape(4, 3, 4), "mask": torch.full((1, 24, 32), 7, dtype=torch.uint8)}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "latents")


def test_entries_come_back_unchanged(cache):
    key = cache_key("a")
    assert not cache.contains(key)
    cache.save(key, TENSORS, {"space": SPACE})
    assert cache.contains(key)
    tensors, metadata = cache.load_with_metadata(key)
    assert tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert metadata["space"] == SPACE and metadata["format"] == FORMAT and metadata["key"] == key
    assert [path.name for path in cache.path(key).parent.iterdir()] == [f"{key}.safetensors"]


def test_keys_depend_on_all_parts_and_their_order():
    assert cache_key("a", 1) == cache_key("a", 1)
    assert (
        len(
            {
                cache_key("a", 1),
                cache_key("a", 2),
                cache_key(1, "a"),
                cache_key("a1"),
                cache_key("a", "1"),
                cache_key(["a", 1]),
            }
        )
        == 6
    )


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-10])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("hello")


@pytest.mark.parametrize("harm", [flip_a_byte, cut_off, empty, text])
def test_a_damaged_file_counts_as_missing_and_is_named(cache, caplog, harm):
    key = cache_key("a")
    cache.save(key, TENSORS, {})
    harm(cache.path(key))
    with caplog.at_level(logging.WARNING, "diff2flow"):
        assert not cache.contains(key)
    assert str(cache.path(key)) in caplog.text and "encoded again" in caplog.text
    with pytest.raises(ValueError, match=key):
        cache.load(key)
    cache.save(key, TENSORS, {})
    assert cache.contains(key)


def test_a_file_of_another_key_counts_as_missing(cache):
    mine, other = cache_key("a"), cache_key("b")
    cache.save(other, TENSORS, {})
    cache.path(mine).parent.mkdir(parents=True, exist_ok=True)
    cache.path(other).rename(cache.path(mine))
    assert not cache.contains(mine)


def test_a_missing_file_is_no_warning(cache, caplog):
    assert not cache.contains(cache_key("a"))
    assert not caplog.text


def test_what_was_there_survives_a_failing_save(cache, monkeypatch):
    import safetensors.torch

    def fail(*arguments, **options):
        raise OSError(28, "no space left")

    key = cache_key("a")
    cache.save(key, TENSORS, {})
    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        cache.save(key, {"latent": torch.zeros(1)}, {})
    assert torch.equal(cache.load(key)["latent"], TENSORS["latent"])


def test_size_counts_all_subfolders(tmp_path):
    assert folder_size(tmp_path / "none") == 0
    for kind in ("latents", "captions"):
        Cache(tmp_path / kind).save(cache_key("a"), TENSORS, {})
    assert folder_size(tmp_path) == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) > 800


def test_latents_of_any_type(cache):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        cache.save(cache_key(str(dtype)), {"latent": torch.ones(2, 3, dtype=dtype)}, {})
        assert cache.load(cache_key(str(dtype)))["latent"].dtype == dtype


def test_conditioning_comes_back_unchanged(cache):
    conditioning = [
        [torch.rand(1, 7, 16), {"pooled_output": torch.rand(1, 16), "guidance": 3.5, "name": "x", "none": None}],
        [torch.rand(1, 7, 16), {"pooled_output": None, "start.percent": torch.rand(2)}],
    ]
    cache.save(cache_key("a"), *pack_conditioning(conditioning))
    back = unpack_conditioning(*cache.load_with_metadata(cache_key("a")))
    for (cond, options), (cond_back, options_back) in zip(conditioning, back, strict=True):
        assert torch.equal(cond, cond_back) and options.keys() == options_back.keys()
        for name, value in options.items():
            same = (
                torch.equal(value, options_back[name])
                if isinstance(value, torch.Tensor)
                else value == options_back[name]
            )
            assert same, name


def test_conditioning_that_a_file_cannot_store():
    assert pack_conditioning([[torch.rand(1, 2, 3), {"hooks": object()}]]) is None
    assert pack_conditioning([[torch.rand(1, 2, 3), {"control": [1]}]]) is None
