"""Training with accelerate: processes, checkpoints, signals, and mistakes that get a sentence."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from PIL import Image
from safetensors.torch import load_file

from d2f_diffusers.demo_model import export_demo
from d2f_diffusers.train.__main__ import main
from d2f_diffusers.train.flags import read

BASE = ("--resolution", "96", "--bucket_step", "32", "--rank", "2", "--learning_rate", "1e-3", "--targets", "attention")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the demo model and a few pictures."""
    place = tmp_path_factory.mktemp("training")
    export_demo(place / "model")
    (place / "data").mkdir()
    for number, colour in enumerate(("red", "green", "blue", "cyan", "white")):
        Image.new("RGB", (96, 96) if number < 3 else (128, 64), colour).save(place / "data" / f"{number}.png")
        (place / "data" / f"{number}.txt").write_text(f"a {colour} cube", encoding="utf-8")
    return place


def words(place, output, *arguments, steps=2, accumulation=1, data="data"):
    return [
        *("--pretrained_model_name_or_path", str(place / "model"), "--train_data_dir", str(place / data)),
        *("--output_dir", str(output), "--cache_dir", str(place / "cache"), "--max_train_steps", str(steps)),
        *("--gradient_accumulation_steps", str(accumulation), *BASE, *arguments),
    ]  # fmt: skip


@pytest.fixture
def start(root):
    """`start(processes, arguments)`: the script in processes of its own, as `accelerate launch` starts them."""
    started = []

    def run(processes, arguments):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(launch if processes > 1 else []), "-m", "d2f_diffusers.train", *arguments]
        environ = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environ |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}  # what it says, and where it is when aborted
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, env=environ, start_new_session=True, **pipes))
        return started[-1]

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish(process, patience=240):
    out, _ = process.communicate(timeout=patience)
    return process.returncode, out


def state(folder):
    return load_file(Path(folder) / "state.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_leaves_what_diffusers_scripts_leave(place, tmp_path):
    out = tmp_path / "run"
    prompt = ("--validation_prompt", "a red cube")
    assert (
        main(words(place, out, "--checkpointing_steps", "1", "--checkpoints_total_limit", "2", *prompt, steps=3)) == 0
    )
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    assert (out / "checkpoint-3" / "pytorch_lora_weights.safetensors").is_file()
    assert (out / "my_lora_step000003.safetensors").is_file()
    assert sorted(path.name for path in (out / "samples").iterdir()) == [f"step{n:06}_0.png" for n in (1, 2, 3)]
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert json.loads((out / "settings.json").read_text("utf-8"))["rank"] == 2


def test_pictures_and_saves_do_not_change_the_run(place, tmp_path):
    plain, busy = tmp_path / "plain", tmp_path / "busy"
    assert main(words(place, plain, steps=3)) == 0
    extra = ("--checkpointing_steps", "1", "--validation_prompt", "a red cube")
    assert main(words(place, busy, *extra, steps=3)) == 0
    assert same(state(plain / "checkpoint-3"), state(busy / "checkpoint-3"))


def test_steps_a_resume_and_steps_are_one_run(place, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    options = ("--use_ema", "--proportion_empty_prompts", "0.3", "--set", "dropout=0.1")
    assert main(words(place, whole, *options, steps=4)) == 0
    assert main(words(place, halves, *options, steps=2)) == 0
    assert main(words(place, halves, *options, "--resume_from_checkpoint", "latest", steps=4)) == 0
    assert same(state(whole / "checkpoint-4"), state(halves / "checkpoint-4"))


def test_gradient_checkpointing_and_bf16(place, tmp_path):
    plain, less = tmp_path / "plain", tmp_path / "less"
    assert main(words(place, plain)) == 0
    assert main(words(place, less, "--gradient_checkpointing")) == 0
    ours, theirs = (load_file(out / "checkpoint-2" / "pytorch_lora_weights.safetensors") for out in (plain, less))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert main(words(place, tmp_path / "bf16", "--mixed_precision", "bf16")) == 0


def test_two_processes_are_one_bit_for_bit(in_two, place, tmp_path):
    """Also from one to two and back, and four within rounding."""
    one, two, mixed = tmp_path / "one", tmp_path / "two", tmp_path / "mixed"
    again = ("--resume_from_checkpoint", "latest")
    assert main(words(place, one, steps=4, accumulation=2)) == 0
    assert main(words(place, mixed, steps=1, accumulation=2)) == 0
    code, out = finish(in_two([({}, words(place, two, steps=4)), ({}, words(place, mixed, *again, steps=3))]))
    assert code == 0, out
    assert same(state(one / "checkpoint-4"), state(two / "checkpoint-4"))
    assert main(words(place, mixed, *again, steps=4, accumulation=2)) == 0
    assert same(state(one / "checkpoint-4"), state(mixed / "checkpoint-4"))


@pytest.mark.slow
def test_four_processes_are_one_within_rounding(start, place, tmp_path):
    assert main(words(place, tmp_path / "one", accumulation=4)) == 0
    code, out = finish(start(4, words(place, tmp_path / "four")))
    assert code == 0, out
    one, four = (load_file(tmp_path / n / "checkpoint-2/pytorch_lora_weights.safetensors") for n in ("one", "four"))
    for name, tensor in one.items():
        torch.testing.assert_close(four[name], tensor, rtol=1e-2, atol=2e-5)


@pytest.mark.slow
def test_a_killed_rank_takes_the_run_down_and_a_restart_goes_on(start, place, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    options = ("--checkpointing_steps", "2")
    process = start(2, words(place, out, *options, steps=400))
    log = wait_for(process, out / "log.jsonl", 5)
    ranks = [pid for pid in children(process.pid) if "d2f_diffusers.train" in cmdline(pid)]
    assert len(ranks) == 2, ranks
    os.kill(ranks[1], signal.SIGKILL)
    code, text = finish(process, 120)
    assert code != 0 and log
    assert "another of the 2 processes of this run has ended" in text or "Signal 9" in text or "exitcode: -9" in text
    last = max(
        int(path.name.split("-")[1]) for path in out.glob("checkpoint-*") if (path / "state.safetensors").exists()
    )
    steps = last + 3
    again = ("--resume_from_checkpoint", "latest", *options)
    code, text = finish(start(2, words(place, out, *again, steps=steps)))
    assert code == 0, text
    assert main(words(place, whole, steps=steps, accumulation=2)) == 0
    assert same(state(whole / f"checkpoint-{steps}"), state(out / f"checkpoint-{steps}"))


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_and_ends(start, place, tmp_path, processes):
    out = tmp_path / "out"
    process = start(processes, words(place, out, "--checkpointing_steps", "0", steps=4000))
    wait_for(process, out / "log.jsonl", 3)
    process.send_signal(signal.SIGTERM)
    code, text = finish(process, 120)
    assert code != 0
    (checkpoint,) = out.glob("checkpoint-*")
    done = len((out / "log.jsonl").read_text("utf-8").splitlines())
    assert checkpoint.name == f"checkpoint-{done}", text
    assert state(checkpoint)
    if processes == 1:
        assert code == 128 + signal.SIGTERM and "--resume_from_checkpoint latest goes on" in text


def wait_for(process, path, lines, patience=180):
    """The lines of a growing file, once there are so many."""
    end = time.monotonic() + patience
    while time.monotonic() < end and process.poll() is None:
        found = path.read_text("utf-8").splitlines() if path.exists() else []
        if len(found) >= lines:
            return found
        time.sleep(0.05)
    for one in children(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGABRT)  # prints where each thread is
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"{path} did not get {lines} lines in {patience} s:\n{process.communicate()[0]}")


def children(pid):
    """Process ids below a process."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(one) for one in listed] + [two for one in listed for two in children(int(one))]


def cmdline(pid):
    return Path(f"/proc/{pid}/cmdline").read_text("utf-8").replace("\0", " ")


def test_the_command_trains_as_well(place, tmp_path, capsys):
    from d2f_diffusers.cli import main as diff2flow

    assert diff2flow(["train", *words(place, tmp_path / "out", steps=1)]) == 0
    assert "step 1 of 1" in capsys.readouterr().out


def test_a_checkpoint_that_was_cut_off_is_passed_over(place, tmp_path):
    out = tmp_path / "out"
    assert main(words(place, out, steps=2)) == 0
    (out / "checkpoint-9").mkdir()
    assert main(words(place, out, "--resume_from_checkpoint", "latest", steps=3)) == 0
    assert (out / "checkpoint-3" / "state.safetensors").is_file()


def test_mistakes_get_a_sentence(place, tmp_path, said):
    out = tmp_path / "out"
    assert "is not a folder" in said(words(place, out, data="nowhere"))
    (place / "empty").mkdir(exist_ok=True)
    assert "holds no images" in said(words(place, out, data="empty"))
    (place / "odd").mkdir(exist_ok=True)
    (place / "odd" / "a.png").write_bytes(b"not a picture")
    assert "cannot be used" in said(words(place, out, "--caption", "x", data="odd"))
    model = ["--pretrained_model_name_or_path", str(tmp_path), "--train_data_dir", "x", "--output_dir", str(out)]
    assert "no model_index.json" in said(model)
    assert "use the settings.json of a run" in said(words(place, out, "--settings", str(place / "none.json")))
    assert "write NAME=VALUE" in said(words(place, out, "--set", "fancy=1"))
    assert "must be of type float" in said(words(place, out, "--set", "ema=much"))
    assert "train it with the node" in said(words(place, out, "--set", "adapter=lokr"))
    assert "names no layer" in said(words(place, out, "--targets", "nothing.*"))
    assert "must be at least 1" in said(words(place, out, "--checkpoints_total_limit", "0"))
    assert not list(out.glob("checkpoint-*"))


def test_settings_of_another_version_or_run(place, tmp_path, said):
    out = tmp_path / "out"
    assert main(words(place, out)) == 0
    settings = json.loads((out / "settings.json").read_text("utf-8"))
    for change, message in (({"magic": 1}, "has the setting 'magic'"), ({"rank": None}, "lacks the setting 'rank'")):
        changed = {name: value for name, value in {**settings, **change}.items() if value is not None}
        (tmp_path / "other.json").write_text(json.dumps(changed), encoding="utf-8")
        assert message in said(words(place, tmp_path / "new", "--settings", str(tmp_path / "other.json")))
    assert "holds checkpoints of a run" in said(words(place, out))
    text = said(words(place, out, "--resume_from_checkpoint", "latest", "--seed", "7", steps=4))
    assert "seed: 0 in the file, 7 wanted" in text
    assert "there is no such folder" in said(words(place, out, "--resume_from_checkpoint", "checkpoint-77"))


def test_batches_per_step_count_those_of_all_processes(place, tmp_path):
    assert main(words(place, tmp_path / "run", steps=1)) == 0
    settings = tmp_path / "run" / "settings.json"
    plain = ["--pretrained_model_name_or_path", "x", "--output_dir", "y", "--train_data_dir", "z"]
    accumulation = ("--gradient_accumulation_steps", "3")
    assert read(plain, 2)[0].accumulation == 2
    assert read([*plain, *accumulation], 2)[0].accumulation == 6
    assert read([*plain, *accumulation, "--settings", str(settings)], 2)[0].accumulation == 6
    assert read([*plain, "--settings", str(settings)], 1)[0].accumulation == 1
    with pytest.raises(ValueError, match="add --gradient_accumulation_steps 1 for a batch per process"):
        read([*plain, "--settings", str(settings)], 2)


def test_more_processes_than_batches():
    from d2f_core import processes

    class Two:
        rank, count, sharded = 0, 2, False

    with pytest.raises(ValueError, match="2 processes train together, but a step has 1 batches"):
        processes.share(1, Two())
    assert [list(processes.share(5, type("P", (), {"rank": r, "count": 2, "sharded": False})())) for r in (0, 1)] == [
        [0, 2, 4],
        [1, 3],
    ]


def test_a_tracker_that_is_not_there_is_named_before_anything_is_loaded(place, tmp_path, capsys, monkeypatch):
    from accelerate import tracking

    monkeypatch.setattr(tracking, "get_available_trackers", list)
    for name, text in (("tensorboard", "pip install tensorboard"), ("notebook", "choose one of aim, ")):
        assert main(words(place, tmp_path / "run", "--report_to", name)) == 1
        assert f"--report_to {name}" in (said := capsys.readouterr().err) and text in said
    assert not (tmp_path / "run").exists()


def test_tensorboard_has_loss_and_learning_rate(place, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(words(place, tmp_path / "run", "--report_to", "tensorboard", steps=3)) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    (events,) = {
        path.parent for path in (tmp_path / "run").rglob("events.out.tfevents.*") if path.parent.name == "my_lora"
    }
    found = EventAccumulator(str(events))
    found.Reload()
    for name, key in (("loss", "loss"), ("lr", "learning_rate")):
        values = [(event.step, event.value) for event in found.Scalars(name)]
        assert values == [(line["step"], pytest.approx(line[key], rel=1e-5)) for line in lines]
