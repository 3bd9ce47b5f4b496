"""Training on a range of flow times: every density is what it is outside of a range, given that t lies there."""

import pytest
import torch

from d2f_core import DENSITIES, AdapterSettings, Batch, Objective, TimeDensity, Trainer, TrainSettings, make_adapters

COUNT = 200_000
RANGED = [name for name, density in DENSITIES.items() if density.ranged]


def draw(alignment, name, count=COUNT, windows=1, seed=0, **settings):
    return TimeDensity(name, **settings).sample(count, alignment, torch.Generator().manual_seed(seed), windows)


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("name", RANGED)
def test_it_is_the_density_with_all_other_times_thrown_away(sd, name, windows):
    low, high = 0.2, 0.65
    every = draw(sd, name, 4 * COUNT, windows, mean=0.4, seed=1)
    kept = every[(every >= low) & (every <= high)]
    ours = draw(sd, name, COUNT, windows, low=low, high=high, mean=0.4)
    assert ours.min() >= low and ours.max() <= high
    levels = kept.quantile(torch.linspace(0.001, 0.999, 400, dtype=torch.float64))
    found = [torch.searchsorted(values.sort().values, levels, right=True) / len(values) for values in (ours, kept)]
    assert (found[0] - found[1]).abs().max() < 0.006  # Kolmogorov-Smirnov at these counts: 0.0055 in 1 of 1,000


def test_of_uniform_times_it_is_a_line(sd):
    whole, part = draw(sd, "uniform", 50), draw(sd, "uniform", 50, low=0.3, high=0.8)
    torch.testing.assert_close(part, 0.3 + 0.5 * whole, atol=1e-14, rtol=0)


def test_each_timestep_of_the_range_is_as_likely_and_no_other_is_drawn(sd):
    steps = sd.timestep(draw(sd, "timestep", low=float(sd.flow_time(torch.tensor(600.4))), high=0.8))
    rows = torch.arange(1000, dtype=torch.float64)
    inside = rows[(sd.flow_time(rows) <= 0.8) & (rows <= 600)]
    counts = torch.bincount(steps.round().long(), minlength=1000)
    torch.testing.assert_close(steps, steps.round(), atol=1e-6, rtol=0)
    assert (counts > 0).nonzero().flatten().tolist() == inside.long().tolist()
    expected = COUNT / len(inside)
    assert (counts[counts > 0] - expected).abs().max() < 6 * expected**0.5


@pytest.mark.parametrize("name", DENSITIES)
def test_the_whole_range_is_no_range_bit_for_bit(sd, name):
    assert torch.equal(draw(sd, name, 99), draw(sd, name, 99, low=0.0, high=1.0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"low": 0.5, "high": 0.5}, "t_low is 0.5 and t_high is 0.5.*set t_low below t_high"),
        ({"low": -0.1}, "t_low is -0.1"),
        ({"high": 1.5}, "t_high is 1.5"),
        ({"name": "few_steps", "low": 0.1}, "few_steps is about single ones"),
        ({"name": "timestep", "low": 0.99}, "t_low 0.99 to t_high 1 is trained with this density.*0.064 to 0.972"),
    ],
)
def test_ranges_that_cannot_be_are_refused_in_words(sd, settings, said):
    with pytest.raises(ValueError, match=said):
        draw(sd, settings.pop("name", "uniform"), 5, **settings)


class Data:
    groups = (range(6),)

    def batch(self, items, drop):
        return Batch(torch.ones(len(items), 2), None)


def test_training_and_validation_ask_about_the_range_alone(sd):
    asked, network = [], torch.nn.Sequential(torch.nn.Linear(2, 2))

    def call(x, timestep, condition):
        asked.append(timestep)
        return network(x)

    adapters = make_adapters(network, AdapterSettings("all", rank=1), torch.Generator())
    optimizer = torch.optim.SGD([p for one in adapters.values() for p in one.parameters()], lr=0.1)
    density, settings = TimeDensity("logit_normal", low=0.4, high=0.6), TrainSettings(batch_size=3)
    trainer = Trainer(network, call, adapters, Objective(sd), density, Data(), optimizer, None, settings)
    list(trainer.run(20))
    trained = torch.cat(asked)
    asked.clear()
    trainer.validate(Data())
    ends = sd.timestep(torch.tensor([0.6, 0.4], dtype=torch.float64))
    assert len(trained) == 60 and trained.min() >= ends[0] and trained.max() <= ends[1]
    middles = 0.4 + 0.2 * (torch.arange(6, dtype=torch.float64) + 0.5) / 6
    torch.testing.assert_close(torch.cat(asked), sd.timestep(middles), check_dtype=False)
