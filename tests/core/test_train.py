"""The training loop: it learns, resumes bit for bit, and leaves nothing behind."""

import copy

import pytest
import torch
from torch import nn

from d2f_core import NonFiniteLossError, Trainer, TrainSettings
from d2f_core.batches import Batch, BatchOrder, derive_seed
from d2f_core.density import TimeDensity
from d2f_core.lora import AdapterSettings, make_adapters
from d2f_core.loss import Objective


class TinyNetwork(nn.Module):
    """An eps-network of 2-D points with one class condition."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(5, 32)
        self.out = nn.Linear(32, 2)
        self.spare = nn.Linear(2, 2)

    def forward(self, x, timestep, condition):
        features = torch.cat([x, (timestep[:, None] / 1000).to(x), condition], dim=1)
        return self.out(torch.tanh(self.hidden(features)))


class Points:
    """Sixteen points near one place, in two groups of shapes; the null condition is zero."""

    groups = (range(10), range(10, 16))

    def __init__(self):
        generator = torch.Generator().manual_seed(9)
        self.points = 0.1 * torch.randn(16, 2, generator=generator) + torch.tensor([1.0, -0.5])
        self.seen, self.dropped = [], []

    def batch(self, items, drop):
        self.seen += items
        self.dropped += drop
        condition = torch.ones(len(items), 2) * (~torch.tensor(drop))[:, None]
        return Batch(self.points[list(items)], condition)


class TwoWeights(torch.optim.SGD):
    """An optimizer with two sets of weights, as schedule-free ones have: evaluated at twice those it trains."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.evaluating = False

    def _switch(self, on):
        if on != self.evaluating:
            for parameter in self.param_groups[0]["params"]:
                parameter.data.mul_(2.1 if on else 1 / 2.1)
            self.evaluating = on

    def train(self):
        self._switch(False)

    def eval(self):
        self._switch(True)


@pytest.fixture
def make(sd):
    """`make(settings, ...)` -> a fresh Trainer; the same arguments give the same one."""

    def build(data=None, targets="hidden,out", dropout=0.1, lr=0.02, module=None, kind=torch.optim.AdamW, **settings):
        if module is None:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                module = TinyNetwork().requires_grad_(False)
        adapters = make_adapters(
            module, AdapterSettings(targets, rank=2, dropout=dropout), torch.Generator().manual_seed(1)
        )
        parameters = [p for adapter in adapters.values() for p in adapter.parameters()]
        optimizer = kind(parameters, lr=lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
        settings = TrainSettings(**{"seed": 3, "batch_size": 4, **settings})
        objective = Objective(sd, weight="eps")
        return Trainer(
            module, module, adapters, objective, TimeDensity(), data or Points(), optimizer, schedule, settings
        )

    return build


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.weights.parameters()])


def test_it_learns(make):
    records = list(make(ema=0.9).run(300))
    first, last = (sum(r.loss for r in part) / len(part) for part in (records[:50], records[-50:]))
    assert last < 0.6 * first
    assert [r.step for r in records] == list(range(1, 301))
    assert records[0].learning_rate == pytest.approx(0.004) and records[-1].learning_rate == pytest.approx(0.02)


def test_same_seed_same_weights_and_global_generators_untouched(make):
    state = torch.get_rng_state()
    one, two, other = make(), make(), make(seed=4)
    for trainer in (one, two, other):
        list(trainer.run(7))
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("settings", [{}, {"ema": 0.95, "accumulation": 3, "drop_condition": 0.3}])
def test_resume_is_bitwise(make, settings):
    whole = make(**settings)
    list(whole.run(11))
    first = make(**settings)
    list(first.run(4))
    second = make(**settings)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [r.step for r in second.run(7)] == list(range(5, 12))
    assert torch.equal(weights(whole), weights(second))
    for one, two in zip(whole.averaged().values(), second.averaged().values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_nothing_is_on_the_network_between_steps(make):
    trainer = make()
    before = {name: p.clone() for name, p in trainer.module.named_parameters()}
    for _ in trainer.run(3):
        assert not any(module._forward_hooks for module in trainer.module.modules())
    assert all(torch.equal(p, before[name]) for name, p in trainer.module.named_parameters())
    assert not any(p.requires_grad or p.grad is not None for p in trainer.module.parameters())


def test_an_error_inside_the_network_leaves_no_hooks(make):
    trainer = make()
    trainer.network = lambda *question: (_ for _ in ()).throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        next(trainer.run(1))
    assert not any(module._forward_hooks for module in trainer.module.modules())
    assert trainer.step == 0


def test_a_loss_that_is_not_finite_keeps_the_last_weights(make):
    data = Points()
    trainer = make(data)
    list(trainer.run(3))
    before = weights(trainer)
    data.points[:] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"at step 4; the weights of step 3"):
        next(trainer.run(1))
    assert torch.equal(weights(trainer), before) and trainer.step == 3


def test_layers_that_take_no_part_are_named(make):
    with pytest.raises(ValueError, match=r"1 adapters got no gradient, the first at spare"):
        next(make(targets="hidden,spare").run(1))


def test_accumulation_is_the_mean_of_its_batches(make):
    """One step over two batches has the gradient of both: losses and gradient norms agree."""
    groups = (range(8),)
    data = [Points() for _ in range(3)]
    for points in data:
        points.groups = groups
    record = next(make(data[0], accumulation=2, dropout=0.0, clip=0.0).run(1))
    single = make(data[1], dropout=0.0, clip=0.0, lr=0.0)
    first, second = (r.loss for r in single.run(2))
    assert record.loss == pytest.approx((first + second) / 2, rel=1e-5)
    assert data[0].seen == data[1].seen and sorted(data[0].seen) == list(range(8))


def test_average_is_the_exponential_one(make):
    trainer = make(ema=0.5)
    list(trainer.run(1))
    first = weights(trainer)
    list(trainer.run(1))
    average = torch.cat([p.flatten() for a in trainer.averaged().values() for p in a.parameters()])
    torch.testing.assert_close(average, 0.5 * first + 0.5 * weights(trainer))


def test_conditions_are_dropped_as_often_as_asked(make):
    data = Points()
    list(make(data, drop_condition=0.25).run(400))
    assert sum(data.dropped) / len(data.dropped) == pytest.approx(0.25, abs=0.04)


def test_an_epoch_takes_each_item_once_and_groups_do_not_mix():
    groups = [range(7), range(7, 12)]
    order = BatchOrder(groups, 3, 0)
    for epoch in range(3):
        batches = [order.items(epoch * 5 + i) for i in range(5)]
        assert sorted(item for batch in batches for item in batch) == list(range(12))
        assert all(max(b) < 7 or min(b) >= 7 for b in batches)
    assert order.items(0) != order.items(5)


def drawn_anew(groups, batch_size, seed, index):
    """The order as it is defined, drawn from the start for every batch."""
    epoch, position = divmod(index, sum(-(-len(group) // batch_size) for group in groups))
    generator = torch.Generator().manual_seed(derive_seed(seed, -epoch - 1))
    batches = []
    for group in groups:
        order = torch.randperm(len(group), generator=generator).tolist()
        batches += [[group[i] for i in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]
    return batches[torch.randperm(len(batches), generator=generator)[position]]


@pytest.mark.parametrize("groups", [[range(7), range(7, 12)], [range(5), [], [9, 7, 8], range(20, 21)], [range(1)]])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_order_does_not_depend_on_what_was_asked_before(groups, batch_size):
    order = BatchOrder(groups, batch_size, 5)
    for index in [*range(40), 3, 39, 0]:
        assert order.items(index) == drawn_anew(groups, batch_size, 5, index)


def test_an_epoch_is_drawn_once(monkeypatch):
    drawn = []
    draw = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda count, **given: drawn.append(count) or draw(count, **given))
    order = BatchOrder([range(100)], 10, 0)
    for index in range(30):
        order.items(index)
    assert drawn == [100, 10] * 3


def test_seeds_are_spread():
    seeds = {derive_seed(seed, index) for seed in range(40) for index in range(-40, 40)}
    assert len(seeds) == 40 * 80 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"accumulation": 0}, "accumulation"),
        ({"ema": 1.0}, "ema"),
        ({"drop_condition": -0.1}, "drop_condition"),
        ({"clip": -1.0}, "clip"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        TrainSettings(**settings)


def test_an_empty_set_is_named():
    with pytest.raises(ValueError, match="empty"):
        BatchOrder([[]], 2, 0)


def test_scaled_gradients_give_the_same_run(make):
    plain, scaled = make(), make(scale_gradients=True)
    list(plain.run(5))
    list(scaled.run(5))
    torch.testing.assert_close(weights(plain), weights(scaled), rtol=1e-4, atol=1e-6)
    resumed = make(scale_gradients=True)
    resumed.load_state_dict(scaled.state_dict())
    assert resumed.scaler.state_dict() == scaled.scaler.state_dict() != {}


def test_a_step_waits_once(make, fake_device):
    """For the losses of its batches and the norm of the gradient, which are looked at together."""
    data = Points()
    trainer = make(data, accumulation=3, ema=0.9)
    list(trainer.run(1))
    with fake_device(waits=False) as device:
        device.bring(data.points)
        for parameter in trainer.parameters:
            device.bring(parameter)
        (record,) = trainer.run(1)
        assert device.lists == [3 + 1] and len(device.kernels) > 30
        with pytest.raises(AssertionError, match="waits"):
            float(data.points.sum())
    assert record.loss > 0


def test_a_step_that_overflows_is_left_out_and_the_scale_falls(make):
    trainer = make(scale_gradients=True)
    list(trainer.run(1))
    before = weights(trainer)
    trainer.parameters[0].register_hook(lambda gradient: gradient * float("inf"))
    scale = trainer.scaler.get_scale()
    assert next(trainer.run(1)).step == 2
    assert torch.equal(weights(trainer), before) and trainer.scaler.get_scale() == scale / 2


def test_a_gradient_that_is_not_finite_stops_without_a_scaler(make):
    trainer = make()
    list(trainer.run(2))
    before = weights(trainer)
    handle = trainer.parameters[0].register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteLossError, match=r"gradient .* at step 3; the weights of step 2"):
        next(trainer.run(1))
    handle.remove()
    assert torch.equal(weights(trainer), before) and trainer.step == 2


def test_validation_is_repeatable_and_sees_no_dropout(make):
    trainer = make(dropout=0.5)
    list(trainer.run(3))
    first, state = trainer.validate(Points()), weights(trainer)
    assert trainer.validate(Points()) == first and torch.equal(weights(trainer), state)
    assert not any(module._forward_hooks for module in trainer.module.modules())
    list(trainer.run(100))
    assert trainer.validate(Points()) < first


def test_validation_measures_the_average(make):
    plain, averaged = make(), make(ema=0.999)
    list(plain.run(30))
    list(averaged.run(30))
    assert torch.equal(weights(plain), weights(averaged))
    assert plain.validate(Points()) != averaged.validate(Points())


def test_weights_of_evaluation_are_copies_and_training_goes_on_bit_for_bit(make):
    looked, whole = make(kind=TwoWeights), make(kind=TwoWeights)
    list(whole.run(6))
    list(looked.run(3))
    before = weights(looked)
    copies = torch.cat([p.detach().flatten() for a in looked.averaged().values() for p in a.parameters()])
    torch.testing.assert_close(copies, 2.1 * before)
    assert torch.equal(weights(looked), before)
    list(looked.run(3))
    assert torch.equal(weights(looked), weights(whole))


# Items that vary from epoch to epoch, and weights of items


class Varied(Points):
    """Points whose condition is another one in every epoch."""

    def __init__(self, seed=None, log=None):
        super().__init__()
        self.seed, self.log = seed, [] if log is None else log

    def of_epoch(self, seed):
        return Varied(seed, self.log)

    def batch(self, items, drop):
        self.log.append(self.seed)
        shift = [derive_seed(self.seed or 0, item) % 5 / 5 for item in items]
        return Batch(self.points[list(items)], torch.tensor(shift)[:, None].expand(-1, 2).clone())


def test_data_is_asked_for_its_epoch(make):
    data = Varied()
    list(make(data, accumulation=2).run(6))
    per_epoch = make().order.per_epoch
    assert per_epoch == 5
    expected = [derive_seed(3, -(index // per_epoch) - 1) for index in range(12)]
    assert data.log == expected and len(set(expected)) == 3


def test_data_that_varies_resumes_bit_for_bit(make):
    whole, first, second = make(Varied()), make(Varied()), make(Varied())
    list(whole.run(11))
    list(first.run(4))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    list(second.run(7))
    assert torch.equal(weights(whole), weights(second))
    fixed = make()
    list(fixed.run(11))
    assert not torch.equal(weights(whole), weights(fixed))


class Weighted(Points):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def batch(self, items, drop):
        found = super().batch(items, drop)
        return found._replace(weight=torch.tensor([self.weight(item) for item in items]))


def test_the_loss_of_an_item_is_multiplied_by_its_weight(make):
    """The mean over the batch stays a mean over its items: half the weight is half the loss, not the same one."""
    plain, same, half = (next(make(data, dropout=0.0).run(1)) for data in
                         (None, Weighted(lambda item: 1.0), Weighted(lambda item: 0.5)))  # fmt: skip
    assert same.loss == plain.loss and half.loss == plain.loss / 2
    off = make(Weighted(lambda item: 0.0), dropout=0.0)
    assert next(off.run(1)).loss == 0
