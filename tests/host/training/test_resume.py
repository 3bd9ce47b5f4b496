"""Runs that go on: N steps are k steps, a resume and N - k steps, bit for bit; other settings are refused."""

import json
import subprocess
import sys

import pytest
import torch

EVERYTHING = {
    "lr_schedule": "cosine",
    "warmup_steps": 2,
    "ema": 0.9,
    "dropout": 0.2,
    "accumulation": 2,
    "caption_dropout": 0.3,
    "weight_decay": 0.01,
}
NULL = [[[torch.zeros(1, 7, 16), {}]]]


class StopNow(BaseException):
    pass


@pytest.fixture
def stop(around_network):
    """`stop(call)` -> the network raises at that call; None lets it run."""

    def at(number):
        calls = []

        def network(call, network, x):
            calls.append(x)
            if len(calls) == number:
                raise StopNow
            return call()

        around_network(network)

    return at


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(build, train, stop, same, optimizer):
    """Stopped between the two batches of step 3; schedule, averages, dropout and order of the data go on."""
    settings = {**EVERYTHING, "steps": 6, "negative": NULL, "optimizer": optimizer}
    whole = train(build(), run_name="whole", **settings)
    stop(6)
    with pytest.raises(StopNow):
        train(build(), **settings)
    stop(None)
    rest = train(build(), **settings)
    assert same(whole[0], rest[0]) and whole[1] == rest[1] and rest[2] == 6


def test_more_steps_are_the_longer_run(build, train, same, saved):
    settings = {**EVERYTHING, "lr_schedule": "constant", "warmup_steps": 1, "negative": NULL}
    whole = train(build(), steps=5, run_name="whole", **settings)
    for steps in (2, 3, 5):
        parts = train(build(), steps=steps, **settings)
        assert parts[2] == steps
    assert same(whole[0], parts[0]) and whole[1] == parts[1]
    assert [path.stem for path in saved("my_lora*")] == [f"my_lora_step00000{steps}" for steps in (2, 3, 5)]


def test_fp16_goes_on_bit_for_bit(build, train, same, output):
    """The scaler of the gradients is part of the state, and counts the steps without an overflow."""
    from diff2flow_kit.d2f_data.files.training_state import load_state

    whole, _, part = (
        train(build(), steps=steps, precision="fp16", run_name=name)[0]
        for name, steps in (("a", 4), ("b", 2), ("b", 4))
    )
    assert same(whole, part)
    state = load_state(output / "diff2flow" / "runs" / "b" / "state.safetensors")[0]
    assert state["trainer"]["scaler"]["_growth_tracker"] == 4


def test_a_finished_run_is_not_trained_again(build, train, same, saved, around_network):
    first = train(build())
    around_network(lambda call, network, x: pytest.fail("the network was called"))
    again = train(build())
    shorter = train(build(), steps=1)
    assert same(first[0], again[0]) and same(first[0], shorter[0]) and first[1:3] == again[1:3] == shorter[1:3]
    assert len(saved()) == 1


def runs(output):
    return sorted(path.name for path in (output / "diff2flow" / "runs").iterdir())


def test_auto_starts_a_numbered_run_under_other_settings(build, train, output, saved):
    train(build(), steps=1)
    state = output / "diff2flow" / "runs" / "my_lora" / "state.safetensors"
    before = state.read_bytes()
    for changes in ({"rank": 3}, {"latents": torch.ones(1, 4, 8, 8)}):
        assert train(build(), steps=1, **changes)[2] == 1
    assert train(build("V_PREDICTION"), steps=1)[2] == 1
    assert runs(output) == ["my_lora", "my_lora_00002", "my_lora_00003", "my_lora_00004"]
    assert state.read_bytes() == before and len(saved()) == 4


def test_new_never_overwrites(build, train, output, saved):
    for _ in range(3):
        assert train(build(), steps=1, resume="new")[2] == 1
    assert runs(output) == ["my_lora", "my_lora_00002", "my_lora_00003"]
    assert len(saved()) == 3


def test_continue_lists_what_differs(build, train, unharmed, output):
    model = build()
    train(model, steps=2, lr_schedule="linear")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    other = build()
    other.model.diffusion_model.out[2].weight.data.mul_(1.1)
    changed = {"rank": 3, "latents": torch.ones(2, 4, 8, 8), "lr_schedule": "linear", "steps": 3}
    with unharmed(other), pytest.raises(ValueError, match="saved with other settings") as raised:
        train(other, resume="continue", **changed)
    words = str(raised.value)
    assert "rank: 2 in the file, 3 wanted" in words and "items: 5 in the file, 2 wanted" in words
    assert "steps_of_lr_schedule: 2 in the file, 3 wanted" in words
    assert "\n  data: " in words and "\n  base: " in words and "change run_name" in words
    assert "learning_rate" not in words
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_another_reading_of_the_network_is_another_run(build, train, stock_sampling, output):
    """Somebody trains a v-model as an eps-model, sees noise, puts the right node in and runs again."""
    train(build(), steps=1)
    right = stock_sampling(build(), "v_prediction", True)
    with pytest.raises(ValueError, match="saved with other settings") as raised:
        train(right, steps=2, resume="continue")
    words = str(raised.value)
    assert "prediction: eps in the file, v wanted" in words and "\n  noise_schedule: " in words
    assert "\n  base: " not in words and "\n  data: " not in words
    assert train(right, steps=2)[2] == 2 and runs(output) == ["my_lora", "my_lora_00002"]


def test_auto_precision_is_a_run_s_own(build, train, output):
    """On another device it may be another type, which has a scaler for its gradients or none."""
    train(build(), steps=1)
    (settings,) = output.rglob("settings.json")
    assert json.loads(settings.read_text(encoding="utf-8"))["dtype"] == "float32"


def test_dropped_captions_go_on_under_the_same_null_condition(build, train, output):
    other = [[[torch.ones(1, 7, 16), {}]]]
    for dropout, names in ((0.0, ["a"]), (0.5, ["b", "b_00002"])):
        for negative in (NULL, other):
            train(build(), run_name=names[0], steps=1, caption_dropout=dropout, negative=negative)
        assert [name for name in runs(output) if name[0] == names[0]] == names


def test_a_damaged_state_is_named(build, train, unharmed, output):
    model = build()
    train(model, steps=1)
    state = output / "diff2flow" / "runs" / "my_lora" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with unharmed(model), pytest.raises(ValueError, match=r"my_lora/state\.safetensors"):
        train(model, steps=2)


@pytest.mark.parametrize("name", ["../outside", "/tmp/absolute", "", "con", "a?b"])
def test_bad_run_names_are_refused(build, train, unharmed, output, name):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match="name of the training run"):
        train(model, run_name=name)
    assert not list(output.rglob("*"))


CHILD = """
import importlib, importlib.util, sys
from pathlib import Path
from types import SimpleNamespace
root, host, output = map(Path, sys.argv[1:])
sys.argv = sys.argv[:1]
spec = importlib.util.spec_from_file_location("conftest", root / "tests" / "conftest.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))
from devtools import pack
pack.enter_host(host, output)
kit = pack.load_pack()
import folder_paths, torch
folder_paths.set_output_directory(str(output))
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("host_conftest", root / "tests" / "host" / "conftest.py")
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)
from diff2flow_kit.nodes.training.train_lora import D2FTrainLora
from diff2flow_kit.nodes.training.run import TrainingRun
from diff2flow_kit.nodes.training.options.trainer_options import TrainerOptions
after = TrainingRun._after
def told(self, record, clock):
    after(self, record, clock)
    print("step", record.step, flush=True)
TrainingRun._after = told
inputs = torch.load(output / "inputs.pt", weights_only=True)
D2FTrainLora.hidden = SimpleNamespace(unique_id="7")
D2FTrainLora.execute([small.build_model()], [{"samples": inputs["latents"]}], [[[inputs["caption"], {}]]],
                     **{name: [value] for name, value in inputs["widgets"].items()},
                     options=[TrainerOptions(inputs["options"])])
"""


@pytest.mark.slow
def test_kill_9_loses_the_steps_since_the_last_save(
    build, train, latents, conditioning, part, root, host_path, output, same
):
    from diff2flow_kit.d2f_data.files.training_state import load_state

    widgets = {widget.id: widget.default for widget in part("training.widgets").training_widgets()}
    own = {"steps": 100_000, "rank": 2, "batch_size": 2, "learning_rate": 1e-2, "preview_every": 0}
    options = {"targets": "attention", "save_every": 2, "dropout": 0.2, "ema": 0.9}
    settings = {**own, **options}
    inputs = {"latents": latents, "caption": conditioning[0][0][0], "widgets": {**widgets, **own}, "options": options}
    torch.save(inputs, output / "inputs.pt")
    command = [sys.executable, "-c", CHILD, str(root), str(host_path), str(output)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=output)
    done = 0
    while done < 7:
        line = child.stdout.readline()
        assert line, "the child ended"
        done = int(line.split()[1]) if line.startswith("step") else done
    child.kill()
    child.stdout.close()
    child.wait()
    step = load_state(output / "diff2flow" / "runs" / "my_lora" / "state.safetensors")[0]["trainer"]["step"]
    assert step >= 6
    rest = train(build(), **{**settings, "steps": step + 3, "resume": "continue"})
    whole = train(build(), **{**settings, "steps": step + 3, "save_every": 0, "run_name": "whole"})
    assert same(rest[0], whole[0]) and rest[1] == whole[1]
