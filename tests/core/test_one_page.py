"""The method on one page, `docs/diff2flow.py`, against the kit: to rounding in float64, step by step in training."""

import copy

import pytest
import torch
from torch import nn

from d2f_core import (
    AdapterSettings,
    Batch,
    FullAdapter,
    Interpolant,
    NoiseSchedule,
    Objective,
    TimeDensity,
    Trainer,
    TrainSettings,
    attached,
    derive_seed,
    flow_grid,
    follow,
    make_adapters,
    solve,
)

SHAPE = (3, 2, 2)
SEED = 3
EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture
def flow(one_page, case):
    """The page's conversion of the ideal network, given the schedule as sigma_ve."""
    return one_page.Diff2Flow(case.network, case.alignment.schedule.sigma_ve, case.alignment.prediction)


@pytest.fixture
def ts(case):
    """Both ends, both sides of t_min and t_max, rows of the table, and times between them."""
    low, high = case.alignment.t_min, case.alignment.t_max
    ends = [0, low / 2, low, (low + high) / 2, high, (1 + high) / 2, 1]
    return torch.cat([torch.tensor(ends, dtype=torch.float64), case.row_times[::97], torch.linspace(0, 1, 33)])


def latents(count, generator):
    return torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)


def test_it_stays_on_one_page(root):
    text = (root / "docs" / "diff2flow.py").read_text(encoding="ascii")
    assert len(text.splitlines()) < 120
    assert [line for line in text.splitlines() if line.startswith(("import", "from"))] == [
        "from collections.abc import Callable, Iterable, Iterator",
        "import torch",
        "from torch import Tensor",
    ]


@pytest.mark.parametrize("terminal", [0.012, 1.0], ids=["stable_diffusion", "zero_terminal_snr"])
def test_the_table_is_the_one_of_the_betas(one_page, terminal):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    betas[-1] = terminal
    torch.testing.assert_close(one_page.noise_table(betas), NoiseSchedule.from_betas(betas).sigma_ve, **EXACT)


def test_times_and_timesteps(case, flow, ts):
    alignment = case.alignment
    assert (flow.t_min, flow.t_max) == pytest.approx((alignment.t_min, alignment.t_max), rel=1e-12)
    torch.testing.assert_close(flow.timestep(ts), alignment.timestep(ts), rtol=0, atol=1e-7)
    timesteps = torch.linspace(-3, 1002, 400, dtype=torch.float64)
    torch.testing.assert_close(flow.flow_time(timesteps), alignment.flow_time(timesteps), **EXACT)
    torch.testing.assert_close(flow.timestep(case.row_times), torch.arange(1000).double(), rtol=0, atol=1e-7)


def test_coordinates_velocity_and_x0(case, flow, ts, generator):
    x, alignment = latents(len(ts), generator), case.alignment
    torch.testing.assert_close(flow.to_diffusion(x, ts), alignment.to_diffusion(x, ts), **EXACT)
    torch.testing.assert_close(flow.to_flow(x, ts), alignment.to_flow(x, ts), **EXACT)
    output = case.ask(x, ts)
    torch.testing.assert_close(flow.x0_and_eps(output, x, ts)[0], alignment.denoised(output, x, ts), **EXACT)
    torch.testing.assert_close(flow.velocity(x, ts), alignment.velocity(output, x, ts), **EXACT)


def test_the_loss(case, flow, ts, generator):
    pair = Interpolant(latents(len(ts), generator), latents(len(ts), generator), ts)
    objective = Objective(case.alignment)
    output = case.network(*objective.model_input(pair))
    torch.testing.assert_close(flow.loss(*pair), objective.loss(output, pair), **EXACT)


def test_gradients_are_finite_at_both_ends(one_page, case):
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    alignment = case.alignment
    flow = one_page.Diff2Flow(
        lambda x, timestep: weight * case.network(x, timestep), alignment.schedule.sigma_ve, alignment.prediction
    )
    x, ends = torch.ones(2, 3, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    flow.velocity(x, ends).sum().backward()
    assert torch.isfinite(weight.grad)
    assert not one_page.sample(flow, x, ends).requires_grad


@pytest.mark.parametrize("start", ["noise", "t_min"])
def test_four_euler_steps(one_page, case, flow, generator, start):
    grid = flow_grid("uniform", 4, t_start=0.0 if start == "noise" else case.alignment.t_min)
    eps = latents(2, generator)

    def velocity(t, x):
        return case.alignment.velocity(case.ask(x, t.expand(len(x))), x, t)

    torch.testing.assert_close(one_page.sample(flow, eps, grid), solve(velocity, eps, grid, "euler"), **EXACT)
    ((x0, same),) = one_page.reflow_pairs(flow, [(eps,)], grid)
    assert torch.equal(same, eps)
    torch.testing.assert_close(x0, follow(velocity, eps, grid, "euler").end, **EXACT)


class Network(nn.Module):
    """An eps-network of points in 2-D with one class condition."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(5, 32)
        self.out = nn.Linear(32, 2)

    def forward(self, x, timestep, condition):
        return self.out(torch.tanh(self.hidden(torch.cat([x, timestep[:, None].to(x) / 1000, condition], dim=1))))


class Points:
    """Six points with a condition each; with noise of their own, or coupled to given noise as reflow pairs are."""

    groups = (range(6),)

    def __init__(self, x0, condition, eps=None):
        self.x0, self.condition, self.eps, self.given = x0, condition, eps, []

    def batch(self, items, drop):
        eps = None if self.eps is None else self.eps[items]
        self.given.append(Batch(self.x0[items], self.condition[items], eps=eps))
        return self.given[-1]


class Run:
    """A network with adapters, low-rank ones or full differences, and an optimizer over them."""

    def __init__(self, kind):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = Network().requires_grad_(False)
        if kind == "full":
            self.adapters = {path: FullAdapter(layer) for path, layer in self.network.named_children()}
        else:
            generator = torch.Generator().manual_seed(1)
            self.adapters = make_adapters(self.network, AdapterSettings("hidden,out", rank=2), generator)
        self.parameters = [parameter for adapter in self.adapters.values() for parameter in adapter.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.01, weight_decay=0)

    def train_with_kit(self, alignment, data, steps):
        settings = TrainSettings(seed=SEED, batch_size=6, clip=0)
        trainer = Trainer(
            self.network, self.network, self.adapters, Objective(alignment), TimeDensity(), data, self.optimizer, None,
            settings,
        )  # fmt: skip
        return [record.loss for record in trainer.run(steps)]

    def train_with_page(self, one_page, alignment, batches):
        """One step per batch, with the random numbers that the kit derives for it."""
        flow = one_page.Diff2Flow(self.network, alignment.schedule.sigma_ve)
        losses = []
        for index, batch in enumerate(batches):
            with torch.random.fork_rng(), attached(self.network, self.adapters):
                eps = seeded_noise(index) if batch.eps is None else batch.eps
                torch.manual_seed(derive_seed(SEED, index))
                torch.rand(6)  # which conditions are dropped
                losses += one_page.train(flow, self.optimizer, [(batch.x0, eps, batch.condition)])
        return losses


def seeded_noise(index):
    """The noise that the kit draws for a batch, after what it drops and the flow times."""
    generator = torch.Generator().manual_seed(derive_seed(SEED, index))
    torch.rand(6, generator=generator), torch.rand(6, generator=generator, dtype=torch.float64)
    return torch.randn(6, 2, generator=generator)


def points(generator):
    return tuple(torch.randn(6, 2, generator=generator) for _ in range(2))


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("coupling", ["independent", "reflow"])
def test_training_steps(one_page, sd, generator, kind, coupling):
    kit, page = Run(kind), Run(kind)
    x0, condition = points(generator)
    eps = None
    if coupling == "reflow":
        eps = torch.randn(6, 2, generator=generator)
        teacher = one_page.Diff2Flow(page.network, sd.schedule.sigma_ve)
        ((x0, eps, condition),) = one_page.reflow_pairs(teacher, [(eps, condition)], flow_grid("uniform", 4))
    data = Points(x0, condition, eps)
    expected = kit.train_with_kit(sd, data, steps=3)
    assert page.train_with_page(one_page, sd, data.given) == pytest.approx(expected, rel=2e-6)
    assert any(bool(parameter.any()) for parameter in kit.parameters)
    for ours, theirs in zip(page.parameters, kit.parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_full_fine_tuning_without_adapters(one_page, sd, generator):
    kit = Run("full")
    data = Points(*points(generator))
    kit.train_with_kit(sd, data, steps=1)
    network = Run("full").network.requires_grad_(True)
    before = copy.deepcopy(network)
    flow = one_page.Diff2Flow(network, sd.schedule.sigma_ve)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(SEED, 0))
        torch.rand(6)
        list(one_page.train(flow, optimizer, [(data.given[0].x0, seeded_noise(0), data.given[0].condition)]))
    for path, adapter in kit.adapters.items():
        moved = network.get_submodule(path).weight - before.get_submodule(path).weight
        assert moved.detach().abs().max() > 1e-3
        torch.testing.assert_close(moved, adapter.diff, rtol=0, atol=2e-6)


def test_independent_pairs_take_noise_of_their_own(one_page, generator):
    x0, condition = points(generator)
    (first, second) = one_page.independent_pairs([(x0, condition)] * 2)
    assert all(torch.equal(pair[0], x0) and torch.equal(pair[2], condition) for pair in (first, second))
    assert first[1].shape == x0.shape and not torch.equal(first[1], second[1])
