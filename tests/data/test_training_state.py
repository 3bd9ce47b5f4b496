"""The complete state of a run on disk: bit for bit, and no resume with other settings."""

import math
import os
import re
import struct
from collections import OrderedDict

import pytest
import torch
from torch import nn

from d2f_core import NoiseSchedule, Objective, TimeDensity
from d2f_core.batches import Batch
from d2f_core.lora import AdapterSettings, make_adapters
from d2f_core.train import Trainer, TrainSettings
from d2f_core.velocity import FlowAlignment
from diff2flow_kit.d2f_data.files.atomic import load_tensors, save_tensors
from diff2flow_kit.d2f_data.files.training_state import check_resumable, differences, load_state, save_state


def same(one, two):
    """Whether two states are equal bit for bit, types of containers and of numbers included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and one.shape == two.shape and bits(one) == bits(two)
    if isinstance(one, dict):
        return isinstance(two, dict) and list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", two)
    return type(one) is type(two) and one == two


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


STATE = {
    "step": 7,
    "none": None,
    "text": "caf\u00e9 \x00",
    "flags": (True, False, 1, 0),
    "floats": [0.1, -0.0, 1e-320, math.inf, -math.inf, math.nan, struct.unpack("<d", b"\x01" + b"\xff" * 7)[0]],
    "betas": (0.9, 0.999),
    "large": 2**200,
    "empty": [{}, [], ()],
    "state": {0: {"exp_avg": torch.randn(3, 4)}, 1: {"exp_avg": torch.tensor(2.0)}, "0": torch.ones(1)},
    "a/b": torch.zeros(2),
    "a": {"b": torch.full((2,), math.nan)},
    "half": torch.randn(5).bfloat16(),
    "rng": torch.Generator().manual_seed(3).get_state(),
    "bools": torch.tensor([True, False]),
    "nothing": torch.zeros(0),
}


def test_any_state_comes_back_bit_for_bit(tmp_path):
    config = {"rank": 16, "lr": 0.1, "name": "x", "flip": False, "mask": None}
    save_state(tmp_path / "state.safetensors", STATE, config)
    state, loaded = load_state(tmp_path / "state.safetensors")
    assert same(STATE, state) and loaded == config
    assert os.listdir(tmp_path) == ["state.safetensors"]


def test_tensors_that_share_memory_come_back_apart(tmp_path):
    whole = torch.arange(6.0)
    save_state(tmp_path / "x.safetensors", OrderedDict(a=whole, b=whole, c=whole[1::2]), {})
    state, _ = load_state(tmp_path / "x.safetensors")
    state["a"].add_(1)
    assert state["b"].tolist() == whole.tolist() and state["c"].tolist() == [1.0, 3.0, 5.0]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": [torch.zeros(1), {1, 2}]}, "state/a/1 is a set"),
        ({"a": {"f": print}}, "state/a/f is a builtin_function_or_method"),
        ({(1, 2): 3}, r"state has the key \(1, 2\)"),
        ({True: 3}, "state has the key True"),
    ],
)
def test_values_that_need_pickle_are_named(tmp_path, state, words):
    with pytest.raises(ValueError, match=words):
        save_state(tmp_path / "x.safetensors", state, {})
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_a_state_are_named(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(ValueError, match=r"no file .*state\.safetensors"):
        load_state(path)
    save_tensors(path, {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match=r"state\.safetensors is not the state of a training run"):
        load_state(path)
    save_state(path, STATE, {})
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, metadata | {"diff2flow.state": "3"})
    with pytest.raises(ValueError, match=r"state\.safetensors has format 3.*update"):
        load_state(path)
    damages = [{"diff2flow.structure": "{"}, {"diff2flow.structure": '{"set": []}'}, {"diff2flow.config": "?"}]
    for damage in damages:
        save_tensors(path, tensors, metadata | damage)
        with pytest.raises(ValueError, match=r"state\.safetensors is damaged"):
            load_state(path)
    del tensors["state/half"]
    save_tensors(path, tensors, metadata)
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged .*state/half"):
        load_state(path)


def test_differences_are_readable():
    saved = {"rank": 16, "ema": 0.999, "data": "a" * 64, "nan": math.nan, "same": 1, "seed": 3, "off": None}
    wanted = {"rank": 8, "data": "a" * 63 + "b", "nan": math.nan, "same": 1, "seed": 3, "extra": True}
    assert differences(saved, saved) == []
    assert differences(saved, wanted) == [
        "rank: 16 in the file, 8 wanted",
        "ema: 0.999 in the file, nothing wanted",
        f"data: {'a' * 20}... in the file, {'a' * 20}... wanted",
        "extra: nothing in the file, True wanted",
    ]


def test_a_resume_with_other_settings_is_refused_with_all_differences(tmp_path):
    path = tmp_path / "state.safetensors"
    check_resumable(path, {"rank": 16}, {"rank": 16})
    with pytest.raises(ValueError) as error:
        check_resumable(path, {"rank": 16, "model": "x", "seed": 1}, {"rank": 8, "model": "y", "seed": 1})
    text = str(error.value)
    assert text.startswith(str(path)) and "rank: 16 in the file, 8 wanted" in text and "model: x in the file" in text
    assert "seed" not in text and re.search("restore the settings .* or change run_name", text)


class Points:
    """Twelve points of a plane in two groups, each its own condition."""

    groups = (range(8), range(8, 12))

    def __init__(self):
        self.points = torch.randn(12, 2, generator=torch.Generator().manual_seed(9))

    def batch(self, items, drop):
        return Batch(self.points[list(items)], torch.tensor(drop, dtype=torch.float32)[:, None])


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x, timestep, condition):
        return self.out(torch.tanh(self.hidden(torch.cat([x, (timestep[:, None] / 1000).to(x), condition], 1))))


@pytest.fixture
def make():
    """`make()` -> a fresh Trainer with AdamW, a warm-up, an average and dropout."""

    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Network().requires_grad_(False)
        adapters = make_adapters(
            network, AdapterSettings("hidden,out", rank=2, dropout=0.1), torch.Generator().manual_seed(1)
        )
        parameters = [p for adapter in adapters.values() for p in adapter.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=0.02)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 6))
        levels = torch.linspace(-4, 3, 1000, dtype=torch.float64)
        objective = Objective(FlowAlignment(NoiseSchedule(levels), "eps"))
        settings = TrainSettings(seed=3, batch_size=4, ema=0.9, drop_condition=0.2)
        return Trainer(
            network, network, adapters, objective, TimeDensity(), Points(), optimizer, schedule, settings=settings
        )

    return build


@pytest.mark.parametrize("k", [1, 4, 10])
def test_steps_a_file_and_the_rest_are_the_whole_run_bit_for_bit(make, tmp_path, k):
    whole, first, second = make(), make(), make()
    records = [(r.step, r.loss, r.learning_rate) for r in whole.run(11)]
    list(first.run(k))
    save_state(tmp_path / "state.safetensors", first.state_dict(), {})
    list(first.run(1))  # the file holds what was, not what is
    second.load_state_dict(load_state(tmp_path / "state.safetensors")[0])
    assert [(r.step, r.loss, r.learning_rate) for r in second.run(11 - k)] == records[k:]
    assert same(plain(whole.state_dict()), plain(second.state_dict()))


def plain(state):
    """A state of plain dicts, as a file gives it."""
    if isinstance(state, dict):
        return {key: plain(one) for key, one in state.items()}
    return type(state)(map(plain, state)) if isinstance(state, list | tuple) else state


def test_saving_leaves_the_run_as_it_was(make, tmp_path):
    one, two = make(), make()
    for _ in one.run(5):
        save_state(tmp_path / "state.safetensors", one.state_dict(), {})
    list(two.run(5))
    assert same(plain(one.state_dict()), plain(two.state_dict()))
