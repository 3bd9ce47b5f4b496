"""What a run trains: the network's own weights."""

import copy

import pytest
import torch
from torch import nn

from d2f_core import Batch, Objective, TimeDensity, Trainer, TrainSettings
from d2f_core.processes import sum_gradients, sum_loss
from d2f_core.trained import TrainedNetwork


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 16), nn.LayerNorm(16), nn.Linear(16, 2)

    def forward(self, x, timestep, condition):
        time = timestep.to(x)[:, None] / 1000
        return self.last(torch.tanh(self.norm(self.first(torch.cat([x, time], 1)))))


class Points:
    groups = [range(8)]
    x0 = torch.randn(8, 2, generator=torch.Generator().manual_seed(5))

    def batch(self, items, drop):
        return Batch(self.x0[items], None)


@pytest.fixture
def make(sd):
    """`make(...)` -> a Trainer of a fresh network; the same arguments give the same one."""

    def build(module=None, kind=torch.optim.SGD, **settings):
        if module is None:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                module = Network()
        optimizer = kind(module.parameters(), lr=0.05)
        settings = TrainSettings(**{"seed": 3, "batch_size": 4, "clip": 0.0, **settings})
        objective = Objective(sd, weight="eps")
        return Trainer(module, module, None, objective, TimeDensity(), Points(), optimizer, None, settings)

    return build


def values(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_a_step_is_gradient_descent_on_the_networks_own_weights(make, monkeypatch):
    trainer, seen = make(), []
    loss = Trainer._loss
    monkeypatch.setattr(Trainer, "_loss", lambda self, batch, pair: seen.append(pair) or loss(self, batch, pair))
    plain = copy.deepcopy(trainer.module)
    for _ in trainer.run(3):
        pair = seen.pop()
        given = trainer.objective.model_input(pair)
        output = plain(given.network_input, given.timestep, None)
        gradients = torch.autograd.grad(trainer.objective.loss(output, pair).mean(), list(plain.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(plain.parameters(), gradients):
                parameter.add_(gradient, alpha=-0.05)
        assert torch.equal(values(trainer.module), values(plain))


def test_averages_are_on_the_network_while_they_are_used_and_off_afterwards(make):
    trainer, past = make(ema=0.75), []
    for _ in trainer.run(4):
        past.append(values(trainer.module))
    wanted = past[0]
    for one in past[1:]:
        wanted = 0.75 * wanted + 0.25 * one
    averages = torch.cat([one.detach().flatten() for one in trainer.averaged().values()])
    torch.testing.assert_close(averages, wanted)
    with trainer.in_use():
        torch.testing.assert_close(values(trainer.module), wanted)
    assert torch.equal(values(trainer.module), past[-1])
    with pytest.raises(KeyError), trainer.in_use():
        raise KeyError
    assert torch.equal(values(trainer.module), past[-1])
    after = torch.cat([one.detach().flatten() for one in trainer.averaged().values()])
    assert torch.equal(after, averages)
    assert list(trainer.averaged()) == [name for name, _ in trainer.module.named_parameters()]


def test_a_resume_is_bitwise(make):
    options = {"ema": 0.9, "accumulation": 2, "kind": torch.optim.AdamW}
    whole, first, second = make(**options), make(**options), make(**options)
    list(whole.run(7))
    list(first.run(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    list(second.run(4))
    assert torch.equal(values(whole.module), values(second.module))
    ours, theirs = (list(trainer.averaged().values()) for trainer in (whole, second))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_validation_looks_at_the_averages_and_changes_nothing(make):
    trainer = make(ema=0.9)
    list(trainer.run(3))
    before = values(trainer.module)
    looked = trainer.validate(Points())
    assert torch.equal(values(trainer.module), before)
    plain = make(module=copy.deepcopy(trainer.module))
    assert plain.validate(Points()) != looked
    with trainer.in_use():
        plain = make(module=copy.deepcopy(trainer.module))
    assert plain.validate(Points()) == looked


def test_weights_that_take_no_part_are_named(make):
    class More(Network):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"2 weights got no gradient, the first is spare\.weight.*train a LoRA"):
        list(make(module=More()).run(1))


def test_frozen_parts_stay_as_they_are(make):
    network = Network()
    network.norm.requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    trainer = make(module=network)
    list(trainer.run(2))
    changed = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(TrainedNetwork(network).names) == {"first.weight", "first.bias", "last.weight", "last.bias"}


class Processes:
    """Two processes of which the other has the same gradient."""

    rank, count = 0, 2

    def __init__(self, sharded):
        self.sharded, self.sent = sharded, []

    def sum(self, values):
        self.sent.append(values.numel())
        return 2 * values


@pytest.mark.parametrize("sharded", [False, True])
def test_gradients_are_sums_of_buckets_or_averages_made_sums(sharded, monkeypatch):
    monkeypatch.setattr("d2f_core.processes.BUCKET", 8)
    parameters = [nn.Parameter(torch.zeros(size)) for size in (3, 6, 2, 9, 1)]
    for number, parameter in enumerate(parameters[:-1], 1):
        parameter.grad = torch.full_like(parameter, float(number))
    processes = Processes(sharded)
    sum_gradients(parameters, processes)
    assert sum_loss(1.5, processes) == 3
    assert [float(parameter.grad.mean()) for parameter in parameters[:-1]] == [2, 4, 6, 8]
    assert processes.sent == ([1] if sharded else [9, 11, 1, 1])
