"""Damaged sets of reflow pairs: refused before the first pair is read, and repaired by the next writer."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from diff2flow_kit.d2f_data.reflow import manifest as pairs_manifest
from diff2flow_kit.d2f_data.reflow import writer as pairs_writer
from diff2flow_kit.d2f_data.reflow.pair_set import ReflowPairSet
from diff2flow_kit.d2f_data.reflow.plan import ReflowPairPlan
from diff2flow_kit.d2f_data.reflow.writer import ReflowPairWriter

ROOT = Path(__file__).resolve().parents[2]
PLAN = ReflowPairPlan((4, 3, 5), 10, 7, {"cfg": 3.0}, shard_size=4)

PRELUDE = f"""
import os, resource, signal, sys, time, types, torch
kit = types.ModuleType("kit"); kit.__path__ = [{str(ROOT)!r}]; sys.modules["kit"] = kit
from kit.d2f_data.reflow.plan import ReflowPairPlan
from kit.d2f_data.reflow.writer import ReflowPairWriter
plan = ReflowPairPlan((4, 3, 5), 10, 7, {{"cfg": 3.0}}, shard_size=4)
conditions = [{{"c": torch.zeros(1, 2, 6)}}]
def write(before=lambda items: None):
    with ReflowPairWriter(sys.argv[1], plan, ["x"], conditions) as writer:
        for items in writer.missing(1):
            before(items[0])
            eps = plan.noise(items)
            writer.add(items, eps, 2 * eps)
"""


def write(folder, plan=PLAN):
    """Run a writer. Returns the indices that it generated."""
    made = []
    with ReflowPairWriter(folder, plan, ["x"], [{"c": torch.zeros(1, 2, 6)}]) as writer:
        for items in writer.missing(3):
            eps = plan.noise(items)
            writer.add(items, eps, 2 * eps)
            made += items
    return made


def process(folder, code):
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    """A finished set."""
    write(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def refused(folder):
    """`refused(words, file)`: the set is refused with these words, the file and a remedy."""

    def check(words, file):
        with pytest.raises(ValueError, match=words) as error:
            ReflowPairSet(folder)
        assert str(folder / file) in str(error.value)
        assert any(remedy in str(error.value) for remedy in ("run Generate Reflow Pairs again", "remove it"))

    return check


@pytest.fixture
def repaired(folder):
    """`repaired(indices)`: the next writer generates these pairs again, and the set is complete."""

    def check(items):
        assert write(folder) == items
        read = ReflowPairSet(folder).read(range(10))
        assert torch.equal(read.eps, PLAN.noise(range(10))) and torch.equal(read.x0, 2 * read.eps)

    return check


def test_a_flipped_byte(folder, refused, repaired):
    flip(folder / "shard-00001.safetensors")
    refused("is damaged: it has another SHA-256", "shard-00001.safetensors")
    repaired([4, 5, 6, 7])


def test_a_flipped_byte_in_the_conditions(folder, refused):
    flip(folder / "conditions.safetensors")
    refused("is damaged: it has another SHA-256", "conditions.safetensors")


def test_a_truncated_shard(folder, refused, repaired):
    path = folder / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    refused(r"is damaged: it has \d+ bytes instead of \d+", path.name)
    repaired([0, 1, 2, 3])


def test_a_missing_shard(folder, refused, repaired):
    (folder / "shard-00002.safetensors").unlink()
    refused("is missing", "shard-00002.safetensors")
    repaired([8, 9])


def test_an_extra_shard(folder, refused):
    extra = folder / "shard-00003.safetensors"
    extra.write_bytes((folder / "shard-00000.safetensors").read_bytes())
    refused("is not in the manifest of this set", extra.name)


def test_a_stale_shard_of_another_set(folder, tmp_path, refused):
    write(tmp_path / "other", ReflowPairPlan((4, 3, 5), 10, 8, {"cfg": 3.0}, shard_size=4))
    stale = folder / "shard-00001.safetensors"
    stale.write_bytes((tmp_path / "other" / stale.name).read_bytes())
    refused("is stale: it belongs to another set", stale.name)
    with pytest.raises(ValueError, match="belongs to another set of pairs; move it away"):
        write(folder)


def test_a_truncated_manifest(folder, refused, repaired, caplog):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    refused("is truncated or damaged", "manifest.json")
    repaired([])
    assert "its shards are checked one by one" in caplog.text


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 1}', '{"format": "x"}', "null"])
def test_a_manifest_of_something_else(folder, text, refused):
    (folder / "manifest.json").write_text(text)
    refused("is truncated or damaged", "manifest.json")


def test_a_manifest_of_a_newer_version(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(ValueError, match="has format 2, but this version reads up to 1; update"):
        ReflowPairSet(folder)


def test_no_set_at_all(tmp_path):
    with pytest.raises(ValueError, match="there are no reflow pairs in") as error:
        ReflowPairSet(tmp_path / "nowhere")
    assert "nowhere" in str(error.value)


def test_a_shard_that_is_removed_while_in_use(folder):
    pairs = ReflowPairSet(folder)
    (folder / "shard-00001.safetensors").unlink()
    assert len(pairs.read([0]).eps) == 1
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors was removed or changed while it was in use"):
        pairs.read([5])


def test_files_are_hashed_once(folder, monkeypatch):
    hashed = []
    original = pairs_manifest.file_digest
    monkeypatch.setattr(pairs_manifest, "file_digest", lambda path: hashed.append(path.name) or original(path))
    ReflowPairSet(folder)
    assert hashed == []
    os.utime(folder / "shard-00001.safetensors", ns=(1, 1))
    ReflowPairSet(folder)
    ReflowPairSet(folder)
    assert hashed == ["shard-00001.safetensors"]
    (folder / "checked.json").write_text("{cut")
    ReflowPairSet(folder)
    assert len(hashed) == 5


def test_a_live_lock_names_its_holder(tmp_path):
    writer = process(tmp_path, 'write(lambda item: (print("at", item, flush=True), time.sleep(60)))')
    try:
        assert writer.stdout.readline() == "at 0\n"
        with pytest.raises(ValueError, match=rf"being written by process {writer.pid} on .+, started 20\d\d-") as error:
            write(tmp_path)
        assert "wait until it has finished, cancel it, or choose another name" in str(error.value)
    finally:
        writer.kill()
        writer.wait()
    assert write(tmp_path) == list(range(10))


def test_a_lock_of_this_process_counts_too(tmp_path):
    with ReflowPairWriter(tmp_path, PLAN, ["x"], [{"c": torch.zeros(1, 2, 6)}]):  # noqa: SIM117
        with pytest.raises(ValueError, match=f"process {os.getpid()} on"):
            write(tmp_path)


def test_a_killed_writer_leaves_its_full_shards(tmp_path, caplog):
    """kill -9 after 6 pairs: the lock is dead, the 4 of the full shard are there, none is made twice or lost."""
    killed = process(tmp_path, "write(lambda item: item == 6 and os.kill(os.getpid(), signal.SIGKILL))")
    assert killed.wait() == -signal.SIGKILL
    assert write(tmp_path) == list(range(4, 10))
    assert f"the last writer (process {killed.pid} on" in caplog.text and "its lock is taken over" in caplog.text
    assert torch.equal(ReflowPairSet(tmp_path).read(range(10)).eps, PLAN.noise(range(10)))
    caplog.clear()
    assert write(tmp_path) == [] and "taken over" not in caplog.text


def test_a_shard_that_was_written_but_not_listed(tmp_path):
    """A crash between the shard and the list of shards: the shard is found by what it says of itself."""
    write(tmp_path)
    for name in ("manifest.json", "checked.json"):
        (tmp_path / name).unlink()
    assert write(tmp_path) == []


def test_a_full_disk(tmp_path):
    """Files may not exceed 600 bytes from pair 6 on: the second shard cannot be written, the first stays."""
    full = process(
        tmp_path,
        """
        def limit(item):
            if item == 6:
                resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
        try:
            write(limit)
        except OSError as error:
            print(error)
        """,
    )
    said = full.communicate()[0]
    assert "shard-00001.safetensors could not be written" in said and "free some space" in said
    assert sorted(path.name for path in tmp_path.glob("shard-*")) == ["shard-00000.safetensors"]
    assert write(tmp_path) == list(range(4, 10))
    assert torch.equal(ReflowPairSet(tmp_path).read(range(10)).eps, PLAN.noise(range(10)))


def test_a_disk_that_is_too_small_is_refused_with_figures(tmp_path, monkeypatch):
    class Usage:
        free = 3 << 30

    monkeypatch.setattr(pairs_writer.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(ValueError, match=r"8000000 pairs need 3\.64 GiB, .* has 3\.00 GiB free; free some space"):
        write(tmp_path, ReflowPairPlan((4, 3, 5), 8_000_000, 7, {}))
    assert not list(tmp_path.glob("*.safetensors"))
    assert write(tmp_path) == list(range(10))


def test_a_set_in_a_read_only_folder_is_read(folder, monkeypatch):
    def refuse(path, text):
        raise PermissionError(13, "read-only")

    (folder / "checked.json").unlink()
    monkeypatch.setattr(pairs_manifest, "_save_text", refuse)
    assert len(ReflowPairSet(folder)) == 10


def rot(path):
    """Flip a bit without a change of size or modification time, as a disk does."""
    status = path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "made"), [("shard-00001.safetensors", [4, 5, 6, 7]), ("shard-00002.safetensors", [8, 9])]
)
def test_a_shard_that_rots_is_found_before_it_is_read_and_is_made_again(folder, name, made):
    """Before, it was believed for ever: size and time are those of the last check."""
    rot(folder / name)
    pairs = ReflowPairSet(folder)  # quick, so it does not see it
    assert len(pairs.read([0]).eps) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{name} is damaged: it has another SHA-256; run Generate Reflow Pairs"):
            pairs.read([0, made[0]])
    with pytest.raises(ValueError, match="another SHA-256"):
        ReflowPairSet(folder)  # what was found is remembered
    assert write(folder) == made
    assert torch.equal(ReflowPairSet(folder).read(range(10)).eps, PLAN.noise(range(10)))


def test_conditions_that_rot_are_found_before_they_are_read(folder):
    rot(folder / "conditions.safetensors")
    with pytest.raises(ValueError, match=r"conditions\.safetensors is damaged: it has another SHA-256"):
        ReflowPairSet(folder).conditions([0])


def test_a_part_of_a_shard_that_has_rotted_is_not_copied_into_the_next(folder):
    """A set that grows rewrites its last shard, under a hash of its own."""
    rot(folder / "shard-00002.safetensors")
    grown = ReflowPairPlan((4, 3, 5), 12, 7, {"cfg": 3.0}, shard_size=4)
    assert write(folder, grown) == [8, 9, 10, 11]
    read = ReflowPairSet(folder).read(range(12))
    assert torch.equal(read.eps, grown.noise(range(12))) and torch.equal(read.x0, 2 * read.eps)


def test_a_session_hashes_a_file_once_when_it_is_first_read(folder, monkeypatch):
    hashed = []
    original = pairs_manifest.file_digest
    monkeypatch.setattr(pairs_manifest, "file_digest", lambda path: hashed.append(path.name) or original(path))
    pairs = ReflowPairSet(folder)
    assert hashed == []
    for _ in range(3):
        pairs.read([0, 5])
        pairs.conditions([0])
    assert hashed == ["shard-00000.safetensors", "shard-00001.safetensors", "conditions.safetensors"]
