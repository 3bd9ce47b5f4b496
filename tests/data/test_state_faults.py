"""States that rot, are mixed up or lost, runs that two processes want, and disks that are full: never silent."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from diff2flow_kit.d2f_data.files import run_settings
from diff2flow_kit.d2f_data.files.atomic import load_tensors, save_tensors
from diff2flow_kit.d2f_data.files.run_folder import RunFolder
from diff2flow_kit.d2f_data.files.state_form import check_fits, check_trainer_state
from diff2flow_kit.d2f_data.files.training_state import load_state

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"rank": 16, "learning_rate": 1e-4, "full_ends": False, "seed": 2**64 - 1}


def state(step):
    return {"step": step, "weights": {"a": torch.arange(64.0) + step}, "losses": [0.5] * step}


@pytest.fixture
def run(tmp_path):
    """A run with the states of steps 1 and 2."""
    folder = RunFolder(tmp_path, "a", CONFIG)
    folder.save(state(1), {"step": 1})
    folder.save(state(2), {"step": 2})
    return folder


def again(run, resume="auto", config=CONFIG):
    return RunFolder(run.path.parent, "a", config, resume)


def flip(path, at, bit=0):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("part", ["header", "tensors"])
def test_a_flipped_bit_is_never_resumed_from(run, part):
    """Before, 17 of 18 were. Now the save before is, and the node and the log say so."""
    path = run.path / "state.safetensors"
    intact = path.read_bytes()
    start = 8 + int.from_bytes(intact[:8], "little")
    places = range(8, start, 7) if part == "header" else range(start, len(intact), 5)
    for number, at in enumerate(places):
        path.write_bytes(intact)
        flip(path, at, number % 8)
        if intact[at : at + 1] == b" " or path.read_bytes()[at : at + 1] == b" ":
            continue  # white space of the header, which means nothing
        for resume in ("auto", "continue"):
            found = again(run, resume)
            assert found.load()["step"] == 1, at
            assert found.note == (
                "; state.safetensors is damaged, so the run goes on from the save before (state.previous.safetensors)"
            )


def test_what_the_fall_back_says_is_in_the_log(run, caplog):
    flip(run.path / "state.safetensors", -1)
    again(run).load()
    assert "state.safetensors is damaged (its content does not match its SHA-256)" in caplog.text
    assert "a; state.safetensors is damaged, so the run goes on from the save before" in caplog.text


def test_a_truncated_and_a_lost_state_do_not_block_the_run(run):
    path = run.path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert again(run).load()["step"] == 1
    path.unlink()
    found = again(run)
    assert found.load()["step"] == 1 and "is missing" in found.note


def test_two_damaged_states_are_refused_with_both_names_and_the_remedy(run):
    for name in ("state.safetensors", "state.previous.safetensors"):
        flip(run.path / name, -1)
    for resume in ("auto", "continue"):
        with pytest.raises(ValueError, match=r"state\.safetensors is damaged .*state\.previous\.safetensors is") as e:
            again(run, resume).load()
        assert f"delete the folder {run.path}" in str(e.value) and "or change run_name" in str(e.value)
    assert again(run, "new").name == "a_00002"


def test_an_intact_state_is_not_lost_to_a_damaged_one(run):
    """After a fall back, the next save replaces the damaged state, and the intact one stays."""
    flip(run.path / "state.safetensors", -1)
    found = again(run)
    found.load()
    found.save(state(3), {"step": 3})
    assert load_state(run.path / "state.previous.safetensors")[0]["step"] == 1
    found.save(state(4), {"step": 4})
    steps = [load_state(run.path / f"state{part}.safetensors")[0]["step"] for part in ("", ".previous")]
    assert steps == [4, 3] and again(run).note == ""


def test_a_save_that_fails_keeps_both_states(run, monkeypatch):
    found = again(run)
    found.load()
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(ValueError, match="cannot be saved without pickle"):
        found.save({"weights": object()}, {"step": 3})
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_the_state_of_another_run_is_refused(run, tmp_path):
    other = RunFolder(tmp_path, "b", {**CONFIG, "rank": 8})
    other.save(state(9), {"step": 9})
    (run.path / "state.safetensors").write_bytes((other.path / "state.safetensors").read_bytes())
    assert again(run).load()["step"] == 1
    (run.path / "state.previous.safetensors").unlink()
    with pytest.raises(ValueError, match=r"the state of another run \(rank: 8 in the file, 16 wanted\); move it"):
        again(run).load()


def test_a_state_that_the_trainer_does_not_take_is_not_used(run):
    def accept(found):
        if found["step"] == 2:
            raise ValueError("does not fit")

    found = again(run)
    assert found.load(accept)["step"] == 1 and found.note


def retyped(path, old, new, metadata=None):
    """Write another dtype into the header of a file; None drops the metadata that only newer versions write."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == old:
            entry["dtype"] = new
    header["__metadata__"] |= metadata or {}
    header["__metadata__"] = {name: value for name, value in header["__metadata__"].items() if value}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])


def test_integers_for_floats_are_refused(run):
    path = run.path / "state.safetensors"
    retyped(path, "F32", "I32")
    assert load_tensors(path)[0]["state/weights/a"].dtype == torch.int32
    assert again(run).load()["step"] == 1


def test_integers_for_floats_are_refused_in_states_without_a_checksum(run):
    path = run.path / "state.safetensors"
    retyped(path, "F32", "I32", {"diff2flow.state": "1", "diff2flow.sha256": ""})
    like = {"weights": {"a": torch.zeros(64)}}
    with pytest.raises(ValueError, match=r"state/weights/a is int32 of shape \(64,\), but must be float32 of shape"):
        check_fits(load_state(path)[0], like)
    assert again(run).load(lambda found: check_fits(found, like))["step"] == 1


def test_states_of_earlier_versions_are_read_and_the_log_says_so(run, caplog):
    path = run.path / "state.safetensors"
    retyped(path, "F32", "F32", {"diff2flow.state": "1", "diff2flow.sha256": ""})
    with caplog.at_level("INFO", "diff2flow"):
        found = again(run)
        assert found.load()["step"] == 2 and found.note == ""
    assert "state.safetensors was saved by an earlier version without a checksum" in caplog.text
    retyped(path, "F32", "F32", {"diff2flow.state": "2"})
    assert again(run).load()["step"] == 1  # a new one without a checksum has lost it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": {"a": torch.zeros(3)}}, r"weights/a is float32 of shape \(3,\), but must be float32 of .* \(2,\)"),
        ({"weights": {"a": torch.zeros(2).half()}}, "weights/a is float16"),
        ({"weights": {}}, "weights lacks 'a'"),
        ({"weights": [1]}, "weights is list, but must be a dict"),
        ({"step": "7"}, "step is str, but must be int"),
        ({"step": True}, "step is bool, but must be int"),
        ({"optimizer": None}, "optimizer is NoneType, but must be a dict"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.zeros(2).int()}}}}, "optimizer's state has .* that is int32"),
    ],
)
def test_a_state_of_another_form_does_not_fit(change, words):
    like = {"step": 0, "weights": {"a": torch.zeros(2)}, "average": None, "optimizer": {"state": {}}, "schedule": {}}
    good = {**like, "average": None, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
    check_trainer_state(good, like)
    with pytest.raises(ValueError, match=words):
        check_trainer_state({**good, **change}, like)


# Settings that are lost


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff"])
def test_a_run_without_its_settings_is_known_by_its_state(run, content, caplog):
    path = run.path / "settings.json"
    path.unlink() if content is None else path.write_bytes(content)
    found = again(run)
    assert found.path == run.path and found.load()["step"] == 2
    assert json.loads(path.read_text(encoding="utf-8")) == {**CONFIG, "run_name": "a"}
    assert "the settings are taken from state.safetensors" in caplog.text
    for name in ("settings.json", "state.safetensors"):
        (run.path / name).unlink()
    assert again(run, "continue").load()["step"] == 1
    path.unlink()
    assert again(run, config={**CONFIG, "rank": 3}).differs == ["rank: 16 in the file, 3 wanted"]


# Two processes


PRELUDE = f"""
import os, resource, signal, sys, time, types, torch
from pathlib import Path
kit = types.ModuleType("kit"); kit.__path__ = [{str(ROOT)!r}]; sys.modules["kit"] = kit
from kit.d2f_data.files.run_folder import RunFolder
CONFIG = {CONFIG!r}
"""


def process(folder, code):
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


TRAINS = """
with RunFolder(Path("."), "a", CONFIG) as run:
    run.save({"step": 1}, {"step": 1})
    print("trains", flush=True)
    time.sleep(60)
"""


def test_a_run_is_trained_by_one_process(tmp_path, caplog):
    other = process(tmp_path, TRAINS)
    try:
        assert other.stdout.readline() == "trains\n"
        words = rf"the training run a is being written by process {other.pid} on .+, started 20\d\d-.*choose another"
        for resume in ("auto", "continue"):
            with pytest.raises(ValueError, match=words), RunFolder(tmp_path, "a", CONFIG, resume):
                pytest.fail("two processes have the run")
        with RunFolder(tmp_path, "a", CONFIG, "new") as new:
            assert new.name == "a_00002"
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
    with RunFolder(tmp_path, "a", CONFIG) as run:
        assert run.load() == {"step": 1}
    assert f"the last writer (process {other.pid} on" in caplog.text


def test_a_run_is_trained_once_in_a_process(run):
    for error in (None, RuntimeError, KeyboardInterrupt):  # whatever ends it releases it
        try:
            with again(run):
                with pytest.raises(ValueError, match=f"process {os.getpid()} on"), again(run):
                    pytest.fail("two have the run")
                if error is not None:
                    raise error
        except (RuntimeError, KeyboardInterrupt):
            pass
    assert again(run).load()["step"] == 2


def test_a_refused_run_leaves_the_folder_of_the_other(tmp_path):
    with RunFolder(tmp_path, "a", CONFIG) as run:
        with pytest.raises(ValueError, match="is being written"), RunFolder(tmp_path, "a", CONFIG):
            pass
        assert (run.path / "settings.json").is_file()
    assert not run.path.exists()  # nothing was saved


def test_two_new_runs_at_the_same_moment_get_two_folders(run, monkeypatch):
    """Both have looked for a free name before either has taken it."""
    names = iter([run.path, run.path.with_name("a_00002")])
    monkeypatch.setattr(run_settings, "_next", lambda base: next(names))
    assert again(run, "new").name == "a_00002" and run.load()["step"] == 2


def test_a_file_with_the_name_of_a_run_is_named(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ValueError, match=r"/a is a file, but the training run needs a folder; change run_name"):
        RunFolder(tmp_path, "a", CONFIG)


# A full disk: files may not exceed a few bytes


WRITERS = {
    "settings": ('RunFolder(Path("runs/people"), "a", CONFIG)', "settings.json", False),
    "state": ('run.save({"weights": torch.zeros(999)}, {})', "state.safetensors", True),
    "log": ('run.save({}, {"step": 1, "text": "x" * 9999})', "log.jsonl", True),
    "preview": ('run.save_picture(Image.new("RGB", (99, 99)), 1)', "preview_000001.jpg", True),
    "LoRA": ('save_lora(Path("loras/x.safetensors"), {"lora_unet_a.diff": torch.ones(999)})', "x.safetensors", False),
    "cache": ('Cache(Path("cache")).save("ab", {"latent": torch.ones(999)}, {})', "ab.safetensors", False),
    "pairs": ("write_pairs()", "conditions.safetensors", False),
    "manifest": ('Manifest({"a": "x" * 9999}, 1, (), StoredFile("", "", 0, 0), ()).write(Path("set/manifest.json"))',
                 "manifest.json", False),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_names_the_file_and_leaves_nothing_behind(tmp_path, writer):
    call, name, with_run = WRITERS[writer]
    limit = 5000 if writer == "log" else 50
    code = f"""
    from PIL import Image
    from kit.d2f_data.files.lora_file import save_lora
    from kit.d2f_data.image_sets.latent_cache import Cache
    from kit.d2f_data.reflow.manifest import Manifest, StoredFile
    from kit.d2f_data.reflow.plan import ReflowPairPlan
    from kit.d2f_data.reflow.writer import ReflowPairWriter
    Image.init()
    torch.zeros(1).numpy()
    def write_pairs():
        with ReflowPairWriter(Path("set"), ReflowPairPlan((4, 3, 5), 4, 7, {{}}), ["x"], [{{"c": torch.zeros(1, 99)}}]):
            pass
    run = RunFolder(Path("."), "made", CONFIG) if {with_run} else None
    before = sorted(map(str, Path(".").rglob("*")))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, hard))
    try:
        {call}
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        print(type(error).__name__, error, flush=True)
        print("left:", sorted(set(map(str, Path(".").rglob("*"))) - set(before)))
    """
    said = process(tmp_path, code).communicate()[0]
    assert re.search(rf"^OSError .*{re.escape(name)}.*(could not be written|cannot write|free some space)", said), said
    assert "free some space" in said
    left = {"state": [], "log": ["made/state.safetensors", "made/log.jsonl"], "pairs": ["set", "set/writer.lock"]}
    assert f"left: {sorted(left.get(writer, []))}" in said, said


def test_a_line_of_the_log_is_whole_or_absent(tmp_path):
    code = """
    run = RunFolder(Path("."), "a", CONFIG)
    run.save({}, {"step": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        run.save({}, {"step": 2, "text": "x" * 5000})
    except OSError as error:
        print(error)
    run.save({}, {"step": 3})
    """
    said = process(tmp_path, code).communicate()[0]
    assert "log.jsonl" in said
    lines = (tmp_path / "a" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 3]


def test_tensors_saved_twice_keep_the_first(tmp_path):
    path, kept = tmp_path / "x.safetensors", tmp_path / "old.safetensors"
    for number in range(3):
        save_tensors(path, {"a": torch.tensor(number)}, {}, keep=kept)
    assert int(load_tensors(path)[0]["a"]) == 2 and int(load_tensors(kept)[0]["a"]) == 1
