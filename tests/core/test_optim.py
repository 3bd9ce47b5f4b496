"""Optimizers and learning rate schedules by name."""

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
