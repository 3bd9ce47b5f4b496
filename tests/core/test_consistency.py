"""The consistency finish: lines to a foretold end, and a trainer whose targets come from later on the path."""

import pytest
import torch
from torch import nn

from d2f_core import OBJECTIVES, Trainer, TrainSettings, train
from d2f_core.batches import Batch
from d2f_core.consistency import later_times, line_to
from d2f_core.density import TimeDensity
from d2f_core.lora import AdapterSettings, make_adapters
from d2f_core.loss import Interpolant, Objective


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_line_goes_through_the_state_and_leads_to_the_end():
    t = torch.tensor([0.0, 0.3, 0.8, 0.99], dtype=torch.float64)
    pair, end = Interpolant(normal(4, 3, seed=1), normal(4, 3, seed=2), t), normal(4, 3, seed=3)
    line = line_to(end, pair)
    torch.testing.assert_close(line.x_fm, pair.x_fm, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(line.x0, end, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((1 - t)[:, None] * (line.x0 - line.eps), end - pair.x_fm, rtol=1e-12, atol=1e-12)


def test_the_line_to_its_own_end_is_the_pair():
    pair = Interpolant(normal(3, 2, seed=1), normal(3, 2, seed=2), torch.tensor([0.0, 0.4, 0.9], dtype=torch.float64))
    line = line_to(pair.x0, pair)
    torch.testing.assert_close(line.eps, pair.eps, rtol=1e-12, atol=1e-12)


def test_at_the_end_the_line_is_finite_and_through_the_state():
    pair = Interpolant(normal(2, 2, seed=1), normal(2, 2, seed=2), torch.ones(2, dtype=torch.float64))
    line = line_to(pair.x_fm + 1e-4, pair)
    assert bool(torch.isfinite(line.eps).all()) and float((line.x0 - line.eps).abs().max()) <= 0.11
    torch.testing.assert_close(line.x_fm, pair.x_fm, rtol=0, atol=2e-4)


def test_later_times_are_uniform_in_what_is_left():
    t = torch.tensor([0.0, 0.25, 0.9], dtype=torch.float64).repeat_interleave(20_000)
    later = later_times(t, torch.Generator().manual_seed(0))
    assert bool((later > t).all()) and float(later.max()) <= 1
    share = ((later - t) / (1 - t)).reshape(3, -1)
    torch.testing.assert_close(share.mean(1), torch.full((3,), 0.5, dtype=torch.float64), rtol=0, atol=0.01)
    assert float(share.sort(dim=1).values.diff(dim=1).max()) < 1e-3


class Network(nn.Module):
    """(network input, timestep, condition) -> output, of points."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(3, 16), nn.Linear(16, 2)
        self.seen = []

    def forward(self, x, timestep, condition):
        self.seen.append((timestep.clone(), torch.is_grad_enabled()))
        return self.out(torch.tanh(self.hidden(torch.cat([x, timestep[:, None].to(x) / 1000], dim=1))))


class Pairs:
    """Eight reflow pairs of points, in windows if they have waypoints."""

    groups = (range(8),)

    def __init__(self, windows=1):
        self.x0, self.eps = normal(8, 2, seed=5).float(), normal(8, 2, seed=6).float()
        self.waypoints = normal(8, windows - 1, 2, seed=7).float() if windows > 1 else None

    def batch(self, items, drop):
        rows = list(items)
        return Batch(
            self.x0[rows], None, eps=self.eps[rows], waypoints=None if self.waypoints is None else self.waypoints[rows]
        )


@pytest.fixture
def make(sd):
    """`make(...)` -> a fresh Trainer of the objective; the same arguments give the same one."""

    def build(objective="consistency", windows=1, lr=0.02, dropout=0.0, **settings):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = Network().requires_grad_(False)
        adapters = make_adapters(
            module, AdapterSettings("hidden,out", rank=2, dropout=dropout), torch.Generator().manual_seed(1)
        )
        optimizer = torch.optim.AdamW([p for adapter in adapters.values() for p in adapter.parameters()], lr=lr)
        settings = TrainSettings(**{"seed": 3, "batch_size": 4, **settings})
        return Trainer(
            module, module, adapters, Objective(sd, objective), TimeDensity(), Pairs(windows), optimizer,
            settings=settings,
        )  # fmt: skip

    return build


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.weights.parameters()])


@pytest.mark.parametrize("windows", [1, 4])
def test_where_the_later_time_is_the_end_it_is_reflow_to_the_end(make, monkeypatch, windows):
    monkeypatch.setattr(train, "later_times", lambda t, generator: torch.ones_like(t))
    (record,) = make(windows=windows).run(1)
    trainer = make("diff2flow")
    if windows == 1:
        (wanted,) = trainer.run(1)
        assert record.loss == pytest.approx(wanted.loss, rel=1e-4)
    else:  # in windows the states differ, but the end is x0
        assert record.loss > 0


@pytest.mark.parametrize("windows", [1, 4])
def test_the_target_is_the_end_that_the_average_sees_later(make, sd, windows):
    trainer = make(windows=windows, ema=0.5)
    list(trainer.run(3))
    trainer.module.seen.clear()
    batch, t = trainer.data.batch(range(4), [False] * 4), torch.tensor([0.0, 0.2, 0.5, 0.9], dtype=torch.float64)
    pair = trainer._pair(batch, t, torch.Generator().manual_seed(8))
    ((asked, grad),) = trainer.module.seen
    later = later_times(t, torch.Generator().manual_seed(8))
    assert not grad
    torch.testing.assert_close(asked.double(), sd.timestep(later), rtol=1e-5, atol=1e-3)
    at = batch.on_path(batch.eps, later)
    with trainer.in_use(), torch.no_grad():
        output = trainer.module(sd.to_diffusion(at.x_fm, later), sd.timestep(later), None)
    torch.testing.assert_close(pair.x0, sd.denoised(output, at.x_fm, later), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pair.x_fm, batch.on_path(batch.eps, t).x_fm, rtol=1e-5, atol=1e-5)


def test_it_learns_where_the_pairs_lead_in_one_step(make, sd):
    trainer = make(lr=0.05, ema=0.9, batch_size=8)

    def error():
        with trainer.in_use(), torch.no_grad():
            eps, t = trainer.data.eps, torch.zeros(8, dtype=torch.float64)
            output = trainer.module(sd.to_diffusion(eps, t), sd.timestep(t), None)
            return float((sd.denoised(output, eps, t) - trainer.data.x0).square().mean())

    before = error()
    list(trainer.run(300))
    assert error() < 0.5 * before


@pytest.mark.parametrize("settings", [{"ema": 0.9}, {"dropout": 0.2}, {"windows": 4, "ema": 0.8, "accumulation": 2}])
def test_resume_is_bitwise(make, settings):
    whole, first, second = make(**settings), make(**settings), make(**settings)
    state = torch.get_rng_state()
    losses = [record.loss for record in whole.run(6)]
    begun = [record.loss for record in first.run(2)]
    second.load_state_dict(first.state_dict())
    assert losses == begun + [record.loss for record in second.run(4)]
    assert torch.equal(weights(whole), weights(second)) and torch.equal(torch.get_rng_state(), state)


def test_validation_is_repeatable_and_leaves_training_alone(make):
    trainer, other = make(ema=0.9, dropout=0.2), make(ema=0.9, dropout=0.2)
    list(trainer.run(2))
    assert trainer.validate(Pairs()) == trainer.validate(Pairs())
    list(trainer.run(2))
    list(other.run(4))
    assert torch.equal(weights(trainer), weights(other))


def test_it_is_sampled_as_any_converted_model():
    rule = OBJECTIVES["consistency"]
    assert rule.is_flow and rule.is_aligned and rule.on_flow == "consistency"
    assert [name for name, one in OBJECTIVES.items() if one.is_consistent] == ["consistency"]
