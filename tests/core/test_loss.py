"""Objectives: their minima, how they are related, densities, masks."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from d2f_core import (
    DENSITIES,
    OBJECTIVES,
    WEIGHTS,
    AdapterSettings,
    Batch,
    ContinuousSchedule,
    FlowAlignment,
    FlowSchedule,
    Interpolant,
    Objective,
    TimeDensity,
    Trainer,
    TrainSettings,
    make_adapters,
    objective_on,
)


@pytest.fixture
def pair(generator):
    x0, eps = torch.randn(2, 6, 4, 5, generator=generator, dtype=torch.float64)
    return Interpolant(x0, eps, torch.tensor([0.07, 0.2, 0.4, 0.6, 0.8, 0.97], dtype=torch.float64))


def ideal_output(alignment, pair):
    """The output of a network that knows this pair."""
    t = pair.t.view(-1, 1, 1)
    norm = torch.sqrt(t**2 + (1 - t) ** 2)
    alpha, sigma = t / norm, (1 - t) / norm
    return {"eps": pair.eps, "v": alpha * pair.eps - sigma * pair.x0, "x0": pair.x0}[alignment.prediction]


@pytest.mark.parametrize("name", ["diff2flow", "diffusion"])
def test_the_ideal_output_has_no_loss(case, pair, name):
    objective = Objective(case.alignment, name)
    assert objective.loss(ideal_output(case.alignment, pair), pair).max() < 1e-18


def test_naive_fm_takes_the_output_for_a_velocity(sd, pair):
    objective = Objective(sd, "naive_fm")
    assert objective.loss(pair.x0 - pair.eps, pair).max() == 0
    question = objective.model_input(pair)
    assert torch.equal(question.network_input, pair.x_fm)
    torch.testing.assert_close(question.timestep, ((1 - pair.t) * 1000).clamp(max=999))


def test_aligned_objectives_ask_where_the_network_was_trained(case, pair):
    for name in ("diff2flow", "diffusion"):
        question = Objective(case.alignment, name).model_input(pair)
        assert torch.equal(question.network_input, case.alignment.to_diffusion(pair.x_fm, pair.t))
        assert torch.equal(question.timestep, case.alignment.timestep(pair.t))


def test_diff2flow_is_the_native_loss_under_another_weight(case, pair, generator):
    """Identity (c): weighting the velocity loss by t^2, (1 - t)^2 or t^2 + (1 - t)^2 gives the native loss."""
    output = ideal_output(case.alignment, pair) + torch.randn(pair.x0.shape, generator=generator, dtype=torch.float64)
    inside = (pair.t > case.alignment.t_min) & (pair.t < case.alignment.t_max)
    ours = Objective(case.alignment, "diff2flow", weight=case.alignment.prediction).loss(output, pair)
    native = Objective(case.alignment, "diffusion").loss(output, pair)
    torch.testing.assert_close(ours[inside], native[inside], rtol=1e-9, atol=1e-12)
    assert inside.sum() >= 4


def test_the_weight_at_the_noisiest_level(sd):
    assert 1 / WEIGHTS["eps"].factor(torch.tensor(sd.t_min), 0.0).item() == pytest.approx(244, abs=1)


# Published weights: name -> (SNR, gamma) -> factor on |eps error|^2, |x0 error|^2 and |v error|^2, as their papers and
# trainers write them.
PUBLISHED = {
    "min_snr": lambda snr, gamma: {
        "eps": (gamma / snr).clamp(max=1), "x0": snr.clamp(max=gamma), "v": snr.clamp(max=gamma) / (snr + 1)
    },
    "soft_min_snr": lambda snr, gamma: {
        "eps": gamma / (snr + gamma), "x0": 1 / (1 / snr + 1 / gamma), "v": 1 / (1 / snr + 1 / gamma) / (snr + 1)
    },
    "debiased": lambda snr, gamma: {"eps": snr**-0.5, "x0": snr**0.5, "v": snr**0.5 / (snr + 1)},
    "p2": lambda snr, gamma: {
        "eps": (1 + snr) ** -gamma, "x0": snr * (1 + snr) ** -gamma, "v": snr * (1 + snr) ** -(gamma + 1)
    },
}  # fmt: skip


@pytest.fixture
def rows(case, generator):
    """Pairs at rows of the table, their SNR from the table itself, and an imperfect output."""
    numbers = torch.tensor([5, 150, 400, 600, 800, 950])
    alpha_bar = case.alphas_cumprod[numbers].double()
    x0, eps, error = torch.randn(3, 6, 4, 5, generator=generator, dtype=torch.float64)
    pair = Interpolant(x0, eps, 1 / (1 + ((1 - alpha_bar) / alpha_bar).sqrt()))
    return pair, alpha_bar / (1 - alpha_bar), ideal_output(case.alignment, pair) + error, error.square().mean((1, 2))


@pytest.mark.parametrize("gamma", [0.0, 2.5])
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("objective", ["diff2flow", "diffusion"])
def test_published_weights_are_what_their_papers_say(case, rows, objective, name, gamma):
    """Of the error that the network makes in its own prediction, whatever the objective compares."""
    pair, snr, output, error = rows
    own = {"min_snr": 5.0, "soft_min_snr": 5.0, "p2": 1.0, "debiased": None}[name]
    wanted = PUBLISHED[name](snr, gamma or own)[case.alignment.prediction] * error
    loss = Objective(case.alignment, objective, weight=name, gamma=gamma).loss(output, pair)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("objective", ["diff2flow", "diffusion"])
def test_published_weights_are_finite_at_both_ends(sd, generator, objective, name):
    x0, eps, output = torch.randn(3, 5, 4, 5, generator=generator, dtype=torch.float64)
    pair = Interpolant(x0, eps, torch.tensor([0.0, 1e-9, 0.03, 0.99, 1.0], dtype=torch.float64))
    loss = Objective(sd, objective, weight=name).loss(output, pair)
    assert torch.isfinite(loss).all() and (loss >= 0).all() and float(loss[0]) == 0


def test_soft_min_snr_is_below_min_snr_and_meets_it_far_out():
    t = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    hard, soft = (WEIGHTS[name].factor(t, 5.0) for name in ("min_snr", "soft_min_snr"))
    assert (soft < hard).all() and float((soft / hard)[[0, -1]].min()) > 0.999
    assert float((soft / hard).min()) == pytest.approx(0.5, abs=1e-3)  # where SNR = gamma


def test_published_weights_of_flow_networks_are_those_of_the_velocity():
    native, t = FlowAlignment(FlowSchedule(1000.0), "flow"), torch.tensor([0.2, 0.9], dtype=torch.float64)
    pair = Interpolant(torch.ones(2, 3).double(), torch.zeros(2, 3).double(), t)
    loss = Objective(native, "flow", weight="debiased").loss(torch.zeros(2, 3), pair)  # the velocity is 1
    torch.testing.assert_close(loss, t * (1 - t))


def test_masked_places_do_not_count(sd, pair, generator):
    output = torch.randn(pair.x0.shape, generator=generator, dtype=torch.float64)
    mask = (torch.rand(6, 1, 5, generator=generator) > 0.4).double()
    mask[5] = 0
    loss = Objective(sd).loss(output, pair, mask)
    wild = torch.where(mask.expand_as(output) == 0, 1e6, output)
    assert torch.equal(Objective(sd).loss(wild, pair, mask), loss)
    assert loss[5] == 0 and (loss[:5] > 0).all()
    assert torch.equal(Objective(sd).loss(output, pair, torch.ones(1)), Objective(sd).loss(output, pair))


def test_huber_is_linear_far_out(sd, pair):
    output = ideal_output(sd, pair)
    far, further = (Objective(sd, huber=0.1).loss(output + d, pair) for d in (100.0, 200.0))
    torch.testing.assert_close(further / far, torch.full((6,), 2.0).double(), rtol=1e-2, atol=0)


def test_low_precision_outputs_are_compared_in_float32(sd, pair):
    half = Interpolant(pair.x0.bfloat16(), pair.eps.bfloat16(), pair.t)
    assert Objective(sd).loss(half.eps, half).dtype == torch.float32


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_are_in_range_and_reproducible(sd, name):
    density = TimeDensity(name)
    draws = [density.sample(4096, sd, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].dtype == torch.float64 and ((draws[0] >= 0) & (draws[0] <= 1)).all()


def test_shapes_of_the_densities(sd):
    def middle(name, **settings):
        t = TimeDensity(name, **settings).sample(200_000, sd, torch.Generator().manual_seed(0))
        return float(((t > 0.25) & (t < 0.75)).double().mean())

    assert middle("uniform") == pytest.approx(0.5, abs=0.005)
    assert middle("logit_normal") == pytest.approx(0.728, abs=0.005)
    assert middle("u_shaped") == pytest.approx(0.1329, abs=0.005)
    t = TimeDensity("timestep").sample(200_000, sd, torch.Generator().manual_seed(0))
    counts = torch.bincount(sd.timestep(t).round().long(), minlength=1000)
    assert counts.min() > 120 and counts.max() < 290


@pytest.mark.parametrize("name", OBJECTIVES)
def test_timesteps_are_uniform_in_the_objectives_own_coordinates(sd, name):
    """Whatever coordinates an objective has, the network is asked about each of its timesteps equally often."""
    objective = Objective(sd, name)
    t = TimeDensity("timestep").sample(200_000, objective.coordinates, torch.Generator().manual_seed(0))
    counts = torch.bincount(objective.coordinates.timestep(t).round().long(), minlength=1000)
    assert len(counts) == 1000 and counts.min() > 120 and counts.max() < 290


def test_the_trainer_draws_in_the_objectives_coordinates(sd):
    """A naive run with density timestep asks for whole timesteps; in the aligned coordinates none would be."""
    asked = []

    def network(x, timestep, condition):
        asked.append(timestep)
        return layer(x)

    layer = torch.nn.Linear(2, 2).requires_grad_(False)
    adapters = make_adapters(
        layers := torch.nn.ModuleDict({"one": layer}), AdapterSettings("one", rank=1), torch.Generator().manual_seed(0)
    )
    optimizer = torch.optim.SGD([p for one in adapters.values() for p in one.parameters()], lr=0.0)
    data = SimpleNamespace(groups=[range(64)], batch=lambda items, drop: Batch(torch.ones(len(items), 2), None))
    list(
        Trainer(
            layers,
            network,
            adapters,
            Objective(sd, "naive_fm"),
            TimeDensity("timestep"),
            data,
            optimizer,
            settings=TrainSettings(batch_size=64),
        ).run(1)
    )
    inner = asked[0][asked[0] > 0.75]
    assert len(inner) > 60 and (inner - inner.round()).abs().max() < 1e-9


def test_each_objective_knows_the_density_it_is_defined_with(sd):
    assert {name: rule.density for name, rule in OBJECTIVES.items()} == {
        "diff2flow": "uniform",
        "flow": "uniform",
        "naive_fm": "uniform",
        "diffusion": "timestep",
        "consistency": "few_steps",
    }
    t = TimeDensity(OBJECTIVES["diffusion"].density).sample(100_000, sd, torch.Generator().manual_seed(0))
    assert t.min() >= sd.t_min - 1e-12 and t.max() <= sd.t_max + 1e-12


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda a: Objective(a, "flow_fm"), r"unknown objective 'flow_fm'.*'diff2flow'"),
        (lambda a: Objective(a, weight="snr"), r"unknown weight 'snr'.*'none'"),
        (lambda a: Objective(a, huber=0.0), "Huber"),
        (lambda a: Objective(a, weight="min_snr", gamma=-1.0), "gamma of a weight must be above 0, got -1"),
        (lambda a: TimeDensity("normal"), r"unknown density 'normal'.*'uniform'"),
        (lambda a: TimeDensity("logit_normal", std=0), "std"),
    ],
)
def test_bad_settings_are_named(sd, make, words):
    with pytest.raises(ValueError, match=words):
        make(sd)


@pytest.mark.parametrize("package", ["d2f_core", "d2f_data", "nodes"])
def test_nobody_compares_the_names_of_objectives(package):
    """What depends on an objective is a column of its table."""
    for path in sorted((Path(__file__).parents[2] / package).rglob("*.py")):
        compared = [one for one in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(one, ast.Compare)]
        values = {leaf.value for one in compared for leaf in ast.walk(one) if isinstance(leaf, ast.Constant)}
        assert not values & set(OBJECTIVES), path


def test_what_an_objective_comes_to(sd):
    native = FlowAlignment(FlowSchedule(1000.0), "flow")
    assert [objective_on(sd, name) for name in ("diff2flow", "naive_fm", "diffusion")] == [
        "diff2flow",
        "naive_fm",
        "diffusion",
    ]
    assert [objective_on(native, name) for name in ("diff2flow", "flow")] == ["flow", "flow"]
    for name in ("naive_fm", "diffusion"):
        with pytest.raises(ValueError, match=f"objective is {name}, which is for diffusion models.*choose diff2flow"):
            objective_on(native, name)


def test_naive_fm_needs_a_table():
    with pytest.raises(ValueError, match="continuous schedule; choose the objective diff2flow"):
        Objective(FlowAlignment(ContinuousSchedule("log", 0.002, 120.0), "edm", 0.5), "naive_fm")


def test_tables_are_complete(sd):
    assert set(OBJECTIVES) == {"diff2flow", "naive_fm", "diffusion", "consistency", "flow"}
    assert FlowAlignment(sd.schedule, "v").prediction == "v"
