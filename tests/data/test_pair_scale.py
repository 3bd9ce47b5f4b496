"""A set of a million tiny pairs is opened and read like one of a thousand."""

import tracemalloc

import pytest
import torch

from d2f_core.batches import BatchOrder
from diff2flow_kit.d2f_data.files.atomic import save_tensors
from diff2flow_kit.d2f_data.fingerprints import content_digest
from diff2flow_kit.d2f_data.reflow import pair_set
from diff2flow_kit.d2f_data.reflow.manifest import CONDITIONS, MANIFEST, Checksums, Manifest, StoredFile, shard_name
from diff2flow_kit.d2f_data.reflow.plan import ReflowPairPlan

SHAPE, SHARD = (1, 1, 2), 50_000


def make_set(folder, count, prompts):
    """A finished set whose pair i is eps = (i, 0), x0 = (i, 1), under prompt p = i modulo ``prompts``, of text p."""
    folder.mkdir()
    conditions = {f"{i}.c_crossattn": torch.full((1, 1, 1), float(i)) for i in range(prompts)}
    plan = ReflowPairPlan(SHAPE, count, seed=1, teacher={"steps": 2, "cfg": 1.0}, shard_size=SHARD)
    settings = plan.settings(content_digest(conditions))
    manifest = Manifest(settings, count, tuple(map(str, range(prompts))), StoredFile(CONDITIONS, "", 0, prompts), ())
    save_tensors(folder / CONDITIONS, conditions, {"set": manifest.identity})
    checksums, shards = Checksums(folder), []
    for number, size in enumerate(plan.shard_sizes):
        index = torch.arange(number * SHARD, number * SHARD + size, dtype=torch.float32)
        tensors = {
            name: torch.stack([index, torch.full_like(index, value)], 1).reshape(size, *SHAPE)
            for name, value in (("eps", 0.0), ("x0", 1.0))
        }
        save_tensors(folder / shard_name(number), tensors, {"set": manifest.identity})
        shards.append(checksums.of(shard_name(number))._replace(entries=size))
    stored = checksums.of(CONDITIONS)._replace(entries=prompts)
    Manifest(settings, count, manifest.prompts, stored, tuple(shards)).write(folder / MANIFEST)
    return folder


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that are opened for reading."""
    names, original = [], pair_set.open_tensors

    def count(path):
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(pair_set, "open_tensors", count)
    return names


def read_batches(pairs, order, first, count):
    for k in range(first, first + count):
        items = order.items(k)
        read = pairs.read(items)
        assert read.eps[:, 0, 0, 0].tolist() == items and bool((read.x0[:, 0, 0, 1] == 1).all())
        texts = [float(one["c_crossattn"]) for one in pairs.conditions(read.prompts)]
        assert texts == [item % len(pairs.prompts) for item in items]


@pytest.mark.parametrize(("count", "prompts"), [(1_000, 500), (1_000_000, 20_000)])
def test_a_batch_costs_the_same_however_large_the_set_is(tmp_path, opened, count, prompts):
    pairs = pair_set.ReflowPairSet(make_set(tmp_path / "set", count, prompts))
    order = BatchOrder(pairs.groups, 32, seed=3)
    read_batches(pairs, order, 0, 30)  # the first read of a file hashes it
    opened.clear()
    tracemalloc.start()
    read_batches(pairs, order, 30, 30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened.count(CONDITIONS) == 0, "the texts' file is read from where it was opened first"
    assert len(opened) <= 30 * min(32, -(-count // SHARD))
    assert peak < 2**20


def test_a_text_file_that_changes_while_it_is_read_is_named(tmp_path):
    folder = make_set(tmp_path / "set", 1_000, 500)
    pairs = pair_set.ReflowPairSet(folder)
    pairs.conditions([0])
    pairs.conditions(list(range(300)))
    (folder / CONDITIONS).unlink()
    with pytest.raises(ValueError, match=r"conditions\.safetensors was removed or changed while it was in use"):
        pairs.conditions(list(range(200, 490)))


def test_reading_leaves_inference_mode_as_it_is(tmp_path):
    pairs = pair_set.ReflowPairSet(make_set(tmp_path / "set", 1_000, 500))
    with torch.inference_mode():
        assert not next(iter(pairs.conditions([3])[0].values())).is_inference()
        assert torch.is_inference_mode_enabled()
    pairs.conditions([4])
    assert not torch.is_inference_mode_enabled()
