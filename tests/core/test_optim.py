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


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon"])
def test_it_goes_downhill(parameters, name):
    optimizer = make_optimizer(name, parameters, 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        loss = parameters[0].square().sum()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 3


@pytest.mark.parametrize("name", ["prodigy", "schedule_free", "adamw_8bit", "lion_8bit", "came"])
def test_an_optional_optimizer_that_is_missing_says_how_to_get_it(parameters, name, monkeypatch):
    for module in ("prodigyopt", "schedulefree", "bitsandbytes", "bitsandbytes.optim", "came_pytorch"):
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
    ours = {"adamw", "adafactor", "lion", "muon"}
    assert set(OPTIMIZERS) == ours | {"adamw_8bit", "lion_8bit", "prodigy", "schedule_free", "came"}


def test_a_rate_that_never_changes_needs_no_schedule(parameters):
    assert make_schedule("constant", make_optimizer("adamw", parameters, 1.0), 0, 10) is None


PACKAGES = {"prodigy": "prodigyopt", "schedule_free": "schedulefree", "came": "came_pytorch"}


@pytest.mark.parametrize("name", PACKAGES)
def test_the_authors_own_optimizers_learn(parameters, name):
    pytest.importorskip(PACKAGES[name])
    optimizer = make_optimizer(name, parameters, 1.0 if name == "prodigy" else 0.05)
    for _ in range(300):
        if name == "schedule_free":
            optimizer.train()
        optimizer.zero_grad()
        loss = parameters[0].square().sum()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 2.9


SHAPES = [(5, 3), (3, 5), (4, 4), (6, 2, 3, 3), (7,)]


@pytest.fixture
def walk():
    """`walk(optimizer of parameters, shapes)` -> the parameters after 6 steps with gradients from a seed, the last of
    which one parameter has none."""

    def run(make, shapes):
        generator = torch.Generator().manual_seed(3)
        parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        optimizer = make(parameters)
        for step in range(6):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            if step == 5:
                parameters[0].grad = None
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    return run


def test_lion_is_its_formula(walk):
    """Algorithm 2 of the paper, value by value, in Python's own floats."""
    rate, decay, b1, b2 = 0.01, 0.3, 0.9, 0.99
    found = walk(lambda p: make_optimizer("lion", p, rate, decay), SHAPES)
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(shape, generator=generator).flatten().tolist() for shape in SHAPES]
    moments = [[0.0] * len(row) for row in values]
    for step in range(6):
        for i, row in enumerate(values):
            for j, gradient in enumerate(torch.randn(SHAPES[i], generator=generator).flatten().tolist()):
                if (step, i) != (5, 0):
                    sign = math.copysign(1.0, b1 * moments[i][j] + (1 - b1) * gradient)
                    row[j] -= rate * (sign + decay * row[j])
                    moments[i][j] = b2 * moments[i][j] + (1 - b2) * gradient
    for row, parameter in zip(values, found, strict=True):
        assert parameter.flatten().tolist() == pytest.approx(row, abs=1e-6)


def test_muon_is_torchs_for_matrices_and_flat_kernels_bit_for_bit(walk):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    found = walk(lambda p: make_optimizer("muon", p, 0.02, 0.1), SHAPES[:4])

    def flat(parameters):
        """Torch's on matrices that share the parameters' memory, as it takes no kernels."""
        matrices = [nn.Parameter(parameter.detach().flatten(1)) for parameter in parameters]
        theirs = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")

        class Both:
            def step(self):
                for matrix, parameter in zip(matrices, parameters, strict=True):
                    matrix.grad = None if parameter.grad is None else parameter.grad.flatten(1)
                theirs.step()

        return Both()

    for ours, theirs in zip(found, walk(flat, SHAPES[:4]), strict=True):
        assert torch.equal(ours, theirs)


def test_muon_leaves_what_is_no_matrix_to_adamw(walk):
    ours = walk(lambda p: make_optimizer("muon", p, 0.02, 0.1), [(7,), (3,)])
    theirs = walk(lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1), [(7,), (3,)])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (20, 4), (4, 20)])
def test_muon_steps_have_singular_values_near_one(shape):
    from d2f_core.muon import orthogonal

    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    values = torch.linalg.svdvals(orthogonal(matrix).float())
    assert float(values.min()) > 0.5 and float(values.max()) < 1.5


@pytest.mark.parametrize(("name", "like"), [("adamw_8bit", "adamw"), ("lion_8bit", "lion")])
def test_eight_bits_follow_the_whole_optimizer_in_a_quarter_of_the_state(name, like):
    pytest.importorskip("bitsandbytes")
    found, start = [], torch.linspace(-2, 2, 8192).view(64, 128)
    for one in (name, like):
        weight = nn.Parameter(start.clone())
        optimizer = make_optimizer(one, [weight], 0.01)
        for _ in range(50):
            weight.grad = weight.detach().clone()
            optimizer.step()
        state = optimizer.state[weight].values()
        kept = sum(value.numel() * value.element_size() for value in state if isinstance(value, torch.Tensor))
        found.append((weight.detach(), kept))
    (small, bits), (whole, floats) = found
    assert bits < 0.35 * floats
    assert float((small - whole).abs().mean()) < 0.03 < 0.2 < float((whole - start).abs().mean())
