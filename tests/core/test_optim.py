"""Optimizers and learning rate schedules by name."""

import math
import sys
import types

import pytest
import torch
from torch import nn

from d2f_core import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule


@pytest.fixture
def parameters():
    return [nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_it_goes_downhill(parameters, name):
    optimizer = make_optimizer(name, parameters, 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        loss = parameters[0].square().sum()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 3


@pytest.mark.parametrize("name", ["prodigy", "schedule_free", "adamw_8bit"])
def test_an_optional_optimizer_that_is_missing_says_how_to_get_it(parameters, name, monkeypatch):
    for module in ("prodigyopt", "schedulefree", "bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{name}.*'adamw'.*-m pip install \w+$"):
        make_optimizer(name, parameters, 1e-3)


def test_an_optional_optimizer_gets_rate_and_decay(parameters, monkeypatch):
    package = types.ModuleType("schedulefree")
    package.AdamWScheduleFree = torch.optim.AdamW
    monkeypatch.setitem(sys.modules, "schedulefree", package)
    group = make_optimizer("schedule_free", parameters, 0.3, 0.2).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_then_the_schedule(parameters, name):
    optimizer = make_optimizer("adamw", parameters, 1.0)
    schedule = make_schedule(name, optimizer, warmup=4, steps=20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert rates[-1] == 1 if name == "constant" else rates[-1] < 0.1


CURVES = {
    "constant": lambda x: 1,
    "linear": lambda x: 1 - x,
    "cosine": lambda x: math.cos(math.pi * x / 2) ** 2,
    "cosine_with_restarts": lambda x: math.cos(math.pi * (3 * x - math.floor(3 * x)) / 2) ** 2,
    "polynomial": lambda x: (1 - x) ** 2,
}


def rates_of(optimizer, schedule, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("rate", [1.0, 1e-4, 1e-7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_curves_of_the_schedules(parameters, name, rate):
    optimizer = make_optimizer("adamw", parameters, rate)
    rates = rates_of(optimizer, make_schedule(name, optimizer, warmup=7, steps=100), 100)
    wanted = [rate * k / 7 if k < 7 else rate * CURVES[name]((k - 7) / 93) for k in range(100)]
    assert rates == pytest.approx(wanted, rel=1e-12, abs=1e-14 * rate)


def test_every_schedule_has_a_curve_of_its_own(parameters):
    def curve(name):
        optimizer = make_optimizer("adamw", parameters, 1.0)
        return rates_of(optimizer, make_schedule(name, optimizer, warmup=1, steps=50), 50)

    assert len({tuple(curve(name)) for name in SCHEDULES}) == len(SCHEDULES) == len(CURVES)
    restarts = curve("cosine_with_restarts")
    assert sum(later > earlier for earlier, later in zip(restarts[1:], restarts[2:])) == 2


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "cosine_with_restarts"])
def test_the_schedules_are_those_of_transformers(parameters, name):
    """Bit for bit, state included, so that runs which were begun with theirs go on."""
    transformers = pytest.importorskip("transformers.optimization")
    theirs = "constant_with_warmup" if name == "constant" else name
    own = {"num_cycles": 3} if name == "cosine_with_restarts" else None
    found = []
    for transformer in (False, True):
        optimizer = make_optimizer("adamw", parameters, 3e-4)
        schedule = (
            transformers.get_scheduler(theirs, optimizer, 5, 37, scheduler_specific_kwargs=own)
            if transformer
            else make_schedule(name, optimizer, 5, 37)
        )
        found.append((rates_of(optimizer, schedule, 37), schedule.state_dict()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda p: make_optimizer("adam", p, 1e-3), "'adam'.*'adamw'"),
        (lambda p: make_optimizer("adamw", p, 0.0), "above 0, got 0.0"),
        (lambda p: make_schedule("cos", make_optimizer("adamw", p, 1.0), 0, 10), "'cos'.*'cosine'"),
        (lambda p: make_schedule("cosine", make_optimizer("adamw", p, 1.0), 10, 10), "10 steps does not fit"),
    ],
)
def test_wrong_choices_are_named(parameters, make, named):
    with pytest.raises(ValueError, match=named):
        make(parameters)


def test_all_names_are_known():
    assert set(OPTIMIZERS) == {"adamw", "adafactor", "adamw_8bit", "prodigy", "schedule_free"}


def test_a_rate_that_never_changes_needs_no_schedule(parameters):
    assert make_schedule("constant", make_optimizer("adamw", parameters, 1.0), 0, 10) is None


@pytest.mark.parametrize("name", ["prodigy", "schedule_free"])
def test_the_authors_own_optimizers_learn(parameters, name):
    pytest.importorskip({"prodigy": "prodigyopt", "schedule_free": "schedulefree"}[name])
    optimizer = make_optimizer(name, parameters, 1.0 if name == "prodigy" else 0.05)
    for _ in range(300):
        if name == "schedule_free":
            optimizer.train()
        optimizer.zero_grad()
        loss = parameters[0].square().sum()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 2.9
