"""Sets of reflow pairs: what is written is read back, also after a writer was stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diff2flow_kit.d2f_data.reflow.pair_set import ReflowPairSet
from diff2flow_kit.d2f_data.reflow.plan import ReflowPairPlan
from diff2flow_kit.d2f_data.reflow.writer import ReflowPairWriter

SHAPE = (4, 3, 5)
TEACHER = {"solver": "euler", "steps": 25, "cfg": 3.0}
PROMPTS = ["a red cube", "a cone", "nothing"]


def plan(count=10, **changes):
    return ReflowPairPlan(SHAPE, count, **{"seed": 7, "teacher": TEACHER, "shard_size": 4, **changes})


def conditions_of_prompts():
    return [{"c_crossattn": torch.full((1, 2, 6), float(i)), "y": torch.tensor([[float(i)]])} for i in range(3)]


def teacher(eps):
    """A teacher whose x0 depends only on the noise."""
    return 2 * eps + 1


def write(folder, wanted, batch=3, stop=None, conditions=None):
    """Run a writer, and interrupt it after ``stop`` pairs. Returns the indices that it generated."""
    made = []
    with ReflowPairWriter(folder, wanted, PROMPTS, conditions or conditions_of_prompts()) as writer:
        for items in writer.missing(batch):
            eps = wanted.noise(items)
            writer.add(items, eps, teacher(eps))
            made += items
            if stop is not None and len(made) >= stop:
                raise KeyboardInterrupt
    return made


def cancelled(folder, wanted, stop, batch=3):
    with pytest.raises(KeyboardInterrupt):
        write(folder, wanted, batch, stop)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "set"


@pytest.fixture
def shards(folder):
    return lambda: sorted(path.name for path in folder.glob("shard-*"))


@pytest.mark.parametrize("storage", ["fp16", "fp32"])
def test_pairs_come_back_in_any_order(folder, storage):
    wanted = plan(storage=storage)
    assert write(folder, wanted) == list(range(10))
    pairs = ReflowPairSet(folder)
    items = [9, 0, 4, 3, 4]
    read = pairs.read(items)
    exact = wanted.noise(items)
    assert len(pairs) == 10 and pairs.shape == SHAPE and pairs.groups == [range(10)]
    tolerance = 0 if storage == "fp32" else 2e-3
    assert torch.allclose(read.eps, exact, atol=tolerance) and torch.allclose(
        read.x0, teacher(exact), atol=3 * tolerance
    )
    assert read.eps.dtype == torch.float32 and not read.eps.is_inference()
    assert read.prompts == [0, 0, 1, 0, 1]
    assert repr(pairs) == "<10 reflow pairs of 4x3x5 under 3 prompts: set>"


def test_conditions_are_stored_once_per_prompt(folder):
    write(folder, plan())
    pairs = ReflowPairSet(folder)
    one, other, again = pairs.conditions([2, 0, 2])
    assert torch.equal(one["c_crossattn"], torch.full((1, 2, 6), 2.0)) and torch.equal(other["y"], torch.zeros(1, 1))
    assert one is again
    assert pairs.prompts == tuple(PROMPTS)


def test_few_conditions_stay_in_memory(folder, monkeypatch):
    write(folder, plan())
    monkeypatch.setattr("diff2flow_kit.d2f_data.reflow.pair_set.CACHED_PROMPTS", 2)
    pairs = ReflowPairSet(folder)
    for prompt in (0, 1, 2, 0):
        assert float(pairs.conditions([prompt])[0]["y"]) == prompt
        assert len(pairs._cache) <= 2


def test_the_index_is_the_pair(folder):
    """Pair i starts from the noise of (seed, i) in any batch."""
    assert torch.equal(plan().noise([3, 8])[1], plan(count=100).noise([8])[0])
    assert not torch.equal(plan().noise([3]), plan(seed=8).noise([3]))
    noise = plan().noise(range(200))
    assert abs(float(noise.mean())) < 0.03 and abs(float(noise.std()) - 1) < 0.03


def test_the_manifest_lists_the_shards(folder, shards):
    write(folder, plan())
    assert shards() == ["shard-00000.safetensors", "shard-00001.safetensors", "shard-00002.safetensors"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [shard[3] for shard in manifest["shards"]] == [4, 4, 2]
    assert manifest["settings"]["cfg"] == 3.0 and manifest["prompts"] == PROMPTS
    assert not (folder / "progress.json").exists()


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 9])
def test_a_cancelled_run_is_continued_without_repeating_or_losing_pairs(folder, stop):
    wanted = plan()
    cancelled(folder, wanted, stop, batch=1)
    with pytest.raises(ValueError, match=rf"unfinished, {stop} of 10 exist; run Generate Reflow Pairs again"):
        ReflowPairSet(folder)
    assert write(folder, wanted) == list(range(stop, 10))
    assert torch.equal(ReflowPairSet(folder).read(range(10)).eps, wanted.noise(range(10)))


def test_a_finished_set_is_not_rewritten(folder):
    write(folder, plan())
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    assert write(folder, plan()) == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")} == before


def test_a_set_grows_and_shrinks(folder):
    write(folder, plan(6))
    assert write(folder, plan(11)) == [6, 7, 8, 9, 10]
    assert len(ReflowPairSet(folder)) == 11
    assert write(folder, plan(3)) == [] and len(ReflowPairSet(folder)) == 3
    assert write(folder, plan(11)) == []
    assert torch.equal(ReflowPairSet(folder).read(range(11)).eps, plan().noise(range(11)))


def test_batches_may_be_larger_than_shards(folder):
    assert write(folder, plan(11), batch=9) == list(range(11))
    assert torch.equal(ReflowPairSet(folder).read(range(11)).eps, plan().noise(range(11)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"seed": 8}, "seed: 7 in the file, 8 wanted"), ({"teacher": {**TEACHER, "cfg": 1.0}}, "cfg: 3.0 in the file")],
)
def test_other_settings_are_refused_with_what_differs(folder, changes, words):
    write(folder, plan())
    with pytest.raises(ValueError, match=words) as error:
        write(folder, plan(**changes))
    assert "choose another name" in str(error.value) and str(folder) in str(error.value)
    assert len(ReflowPairSet(folder)) == 10


def test_other_conditions_are_other_settings(folder):
    cancelled(folder, plan(), 5)
    with pytest.raises(ValueError, match="conditions:"):
        write(folder, plan(), conditions=[{"c_crossattn": torch.zeros(1, 2, 6)}] * 3)


def test_latents_that_are_not_finite_stop_the_writer(folder):
    with pytest.raises(ValueError, match="pairs 2 to 3 are NaN or infinite in fp16"):  # noqa: SIM117
        with ReflowPairWriter(folder, plan(storage="fp16"), PROMPTS, conditions_of_prompts()) as writer:
            writer.add([0, 1], torch.zeros(2, *SHAPE), torch.zeros(2, *SHAPE))
            writer.add([2, 3], torch.zeros(2, *SHAPE), torch.full((2, *SHAPE), 1e6))
    assert write(folder, plan(storage="fp16")) == list(range(2, 10))


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("shard_size", 0), ("storage", "fp8")])
def test_invalid_plans(name, value):
    with pytest.raises(ValueError, match=name):
        plan(**{name: value})


def peak_mib(folder: Path, count: int) -> float:
    """Peak memory of a process that writes pairs and reads them all in random batches.

    Read from /proc, since getrusage reports at least the parent's peak for a child.
    """
    code = f"""
import importlib.util, re, sys, types, torch
root = {str(Path(__file__).resolve().parents[2])!r}
kit = types.ModuleType("kit"); kit.__path__ = [root]; sys.modules["kit"] = kit
from kit.d2f_data.reflow.pair_set import ReflowPairSet
from kit.d2f_data.reflow.plan import ReflowPairPlan
from kit.d2f_data.reflow.writer import ReflowPairWriter
torch.set_num_threads(1)
plan = ReflowPairPlan((4, 16, 16), {count}, 0, {{}}, shard_size=128)
with ReflowPairWriter({str(folder)!r}, plan, ["x"], [{{"c": torch.zeros(1, 2, 6)}}]) as writer:
    for items in writer.missing(50):
        eps = plan.noise(items)
        writer.add(items, eps, eps)
pairs = ReflowPairSet({str(folder)!r})
for items in torch.randperm({count})[:1000].split(50):
    pairs.read(items.tolist())
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux reports the peak memory of a single process"
)
def test_memory_does_not_grow_with_the_number_of_pairs(tmp_path):
    """10,000 pairs of 8 KiB are 80 MiB."""
    few, many = peak_mib(tmp_path / "few", 1_000), peak_mib(tmp_path / "many", 10_000)
    assert many - few < 15, (few, many)


def write_windows(folder, wanted, stop=None):
    """As ``write``, of a teacher whose path bends; its states at the edges are multiples of the noise."""
    made = []
    with ReflowPairWriter(folder, wanted, PROMPTS, conditions_of_prompts()) as writer:
        for items in writer.missing(3):
            eps = wanted.noise(items)
            waypoints = torch.stack([(2 + k) * eps for k in range(wanted.windows - 1)], 1)
            writer.add(items, eps, teacher(eps), waypoints)
            made += items
            if stop is not None and len(made) >= stop:
                raise KeyboardInterrupt
    return made


@pytest.mark.parametrize("storage", ["fp16", "fp32"])
def test_states_between_come_back_in_as_many_windows_as_asked(folder, storage):
    wanted = plan(storage=storage, windows=8)
    write_windows(folder, wanted)
    pairs, items = ReflowPairSet(folder), [9, 0, 4]
    assert pairs.windows == pairs.stored_windows == 8 and "in 8 windows" in repr(pairs)
    exact, tolerance = wanted.noise(items), 0 if storage == "fp32" else 2e-3
    for windows, factors in ((8, range(2, 9)), (4, (3, 5, 7)), (2, (5,))):
        read = pairs.in_windows(windows).read(items)
        expected = torch.stack([factor * exact for factor in factors], 1)
        torch.testing.assert_close(read.waypoints, expected, rtol=tolerance, atol=tolerance)
    assert pairs.in_windows(1).read(items).waypoints is None
    names = {pairs.in_windows(windows).fingerprint for windows in (1, 2, 4, 8)}
    assert len(names) == 4 and pairs.fingerprint == pairs.in_windows(8).fingerprint
    with pytest.raises(ValueError, match=r"generated with 8 windows and cannot be read in 3; choose 1 or 2 or 4 or 8"):
        pairs.in_windows(3)
    assert sum(path.stat().st_size for path in folder.glob("shard-*")) > 10 * wanted.pair_bytes
    assert wanted.pair_bytes == 9 * 60 * (4 if storage == "fp32" else 2)


def test_a_stopped_set_of_windows_goes_on(folder):
    wanted = plan(windows=4)
    with pytest.raises(KeyboardInterrupt):
        write_windows(folder, wanted, stop=6)
    assert write_windows(folder, wanted) == [6, 7, 8, 9]
    read = ReflowPairSet(folder).read(range(10))
    assert torch.equal(read.waypoints[:, 1], 3 * wanted.noise(range(10)))
    with pytest.raises(ValueError, match=r"holds pairs with other settings \(windows: "):
        write(folder, plan())


def test_a_set_of_one_window_is_written_as_before(folder):
    """Its settings, and with them its identity and its files, do not name windows."""
    write(folder, plan())
    found = json.loads((folder / "manifest.json").read_text())
    assert "windows" not in found["settings"] and ReflowPairSet(folder).windows == 1
    with pytest.raises(ValueError, match="cannot be read in 4; choose 1, or generate pairs with windows 4"):
        ReflowPairSet(folder).in_windows(4)


def test_waypoints_that_are_not_finite_are_refused(folder):
    wanted = plan(windows=2)
    with (
        ReflowPairWriter(folder, wanted, PROMPTS, conditions_of_prompts()) as writer,
        pytest.raises(ValueError, match="pairs 0 to 1 are NaN or infinite"),
    ):
        eps = wanted.noise([0, 1])
        writer.add([0, 1], eps, eps, torch.full((2, 1, *SHAPE), float("inf")))
