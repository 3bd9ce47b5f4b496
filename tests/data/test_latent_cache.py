"""The cache: what it holds, what it no longer believes, what its keys depend on."""

import logging

import pytest
import torch

from diff2flow_kit.d2f_data.image_sets.latent_cache import (
    FORMAT,
    SPACE,
    Cache,
    folder_size,
    key_of,
    pack_conditioning,
    unpack_conditioning,
)

TENSORS = {"latent": torch.arange(48.0).reshape(4, 3, 4), "mask": torch.full((1, 24, 32), 7, dtype=torch.uint8)}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "latents")


def test_what_goes_in_comes_out(cache):
    key = key_of("a")
    assert not cache.holds(key)
    cache.save(key, TENSORS, {"space": SPACE})
    assert cache.holds(key)
    tensors, facts = cache.load_with_facts(key)
    assert tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert facts["space"] == SPACE and facts["format"] == FORMAT and facts["key"] == key
    assert [path.name for path in cache.path(key).parent.iterdir()] == [f"{key}.safetensors"]


def test_keys_depend_on_all_parts_and_their_order():
    assert key_of("a", 1) == key_of("a", 1)
    assert len({key_of("a", 1), key_of("a", 2), key_of(1, "a"), key_of("a1"), key_of("a", "1"), key_of(["a", 1])}) == 6


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
def test_a_harmed_file_counts_as_missing_and_is_named(cache, caplog, harm):
    key = key_of("a")
    cache.save(key, TENSORS, {})
    harm(cache.path(key))
    with caplog.at_level(logging.WARNING, "diff2flow"):
        assert not cache.holds(key)
    assert str(cache.path(key)) in caplog.text and "encoded again" in caplog.text
    with pytest.raises(ValueError, match=key):
        cache.load(key)
    cache.save(key, TENSORS, {})
    assert cache.holds(key)


def test_a_file_of_another_key_counts_as_missing(cache):
    mine, other = key_of("a"), key_of("b")
    cache.save(other, TENSORS, {})
    cache.path(mine).parent.mkdir(parents=True, exist_ok=True)
    cache.path(other).rename(cache.path(mine))
    assert not cache.holds(mine)


def test_a_missing_file_is_no_warning(cache, caplog):
    assert not cache.holds(key_of("a"))
    assert not caplog.text


def test_what_was_there_survives_a_failing_save(cache, monkeypatch):
    import safetensors.torch

    def fail(*arguments, **options):
        raise OSError(28, "no space left")

    key = key_of("a")
    cache.save(key, TENSORS, {})
    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        cache.save(key, {"latent": torch.zeros(1)}, {})
    assert torch.equal(cache.load(key)["latent"], TENSORS["latent"])


def test_size_counts_all_rooms(tmp_path):
    assert folder_size(tmp_path / "none") == 0
    for room in ("latents", "captions"):
        Cache(tmp_path / room).save(key_of("a"), TENSORS, {})
    assert folder_size(tmp_path) == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) > 800


def test_latents_of_any_type(cache):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        cache.save(key_of(str(dtype)), {"latent": torch.ones(2, 3, dtype=dtype)}, {})
        assert cache.load(key_of(str(dtype)))["latent"].dtype == dtype


def test_conditioning_comes_back_whole(cache):
    conditioning = [
        [torch.rand(1, 7, 16), {"pooled_output": torch.rand(1, 16), "guidance": 3.5, "name": "x", "none": None}],
        [torch.rand(1, 7, 16), {"pooled_output": None, "start.percent": torch.rand(2)}],
    ]
    cache.save(key_of("a"), *pack_conditioning(conditioning))
    back = unpack_conditioning(*cache.load_with_facts(key_of("a")))
    for (cond, options), (cond_back, options_back) in zip(conditioning, back, strict=True):
        assert torch.equal(cond, cond_back) and options.keys() == options_back.keys()
        for name, value in options.items():
            same = (
                torch.equal(value, options_back[name])
                if isinstance(value, torch.Tensor)
                else value == options_back[name]
            )
            assert same, name


def test_conditioning_that_no_file_can_hold():
    assert pack_conditioning([[torch.rand(1, 2, 3), {"hooks": object()}]]) is None
    assert pack_conditioning([[torch.rand(1, 2, 3), {"control": [1]}]]) is None
