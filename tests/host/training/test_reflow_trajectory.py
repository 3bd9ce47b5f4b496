"""Trajectory Report: known paths, the host's sampler as the measure of few steps, two models side by side."""

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def report(node, conditioning):
    """`report(model, model_2, ...)` -> straightness, straightness_2, report, plot."""
    trajectory = node("D2FTrajectory")
    trajectory.hidden = SimpleNamespace(unique_id="7")
    small = {"width": 64, "height": 64, "count": 3, "seed": 5, "cfg": 1.0, "cfg_2": 1.0, "reference_steps": 24}

    def run(model, model_2=None, **given):
        given = {**small, "negative": conditioning[1], **given}
        return trajectory.execute(model, conditioning[0], model_2=model_2, **given).result

    return run


@pytest.fixture
def measure(part, conditioning):
    """`measure(model, ...)` -> the numbers behind the report."""
    paths = part("reflow.path_measures")
    common = {
        "positive": conditioning[0],
        "negative": conditioning[1],
        "cfg": 1.0,
        "width": 64,
        "height": 64,
        "count": 3,
    }

    def run(model, **given):
        settings = paths.PathSettings(**{**common, "steps": 24, "seed": 5, **given})
        return paths.measure(model, settings, lambda done: None)

    return run


def test_a_network_that_knows_the_only_image_has_straight_paths(build, watch, measure):
    """All data at 0: eps = x_dm / sigma, so the velocity points to 0 from everywhere inside of the table.

    Beyond t_max = 0.972 eps is read with the last row's sigma and the velocity falls to 0: a share of 0.028, of
    which the mean square is about a third.
    """
    sigmas = build().get_model_object("model_sampling").sigmas.double()

    def ideal(run, x, timestep):
        ve = torch.lerp(
            sigmas.log()[timestep.long()], sigmas.log()[timestep.long().add(1).clamp(max=999)], timestep.double() % 1
        )
        return x / (ve.exp() / (1 + ve.exp() ** 2).sqrt()).reshape(-1, 1, 1, 1).float()

    found = measure(watch(build(), ideal))
    assert found.t_start == pytest.approx(0.064, abs=1e-3)
    assert found.straightness == pytest.approx(0.028 / 3, rel=0.3)
    assert [nfe for nfe, _ in found.errors] == [1, 2, 4, 8] and max(error for _, error in found.errors) < 0.05


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("start", ["t_min", "noise"])
def test_the_errors_are_those_of_the_hosts_sampler(build, host, part, measure, conditioning, monkeypatch, start, cfg):
    import comfy.sample

    model = build()
    converted = host.convert(model, start)
    found = measure(converted, cfg=cfg)
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(comfy.sample, "prepare_noise", lambda latent, seed, inds=None: noise)

    def end(solver, steps):
        levels = part("sampling.sigmas").flow_sigmas(converted, {"grid": "uniform"}, steps)
        sampler = host.make_sampler(part("sampling.ode").OdeSampler(solver))
        empty = {"samples": torch.zeros(3, 4, 8, 8)}
        sampled = host.sample(converted, empty, *conditioning, cfg, sampler, levels, 0)["samples"]
        return model.model.process_latent_in(sampled)

    fine = end("heun", 24)  # but for the last step, which the host's sampler takes without looking at t = 1
    for nfe, error in found.errors:
        measured = (end("euler", int(nfe)) - fine).square().flatten(1).mean(1).sqrt().mean()
        assert error == pytest.approx(float(measured), rel=0.03)


def test_two_models_side_by_side(build, host, report, measure):
    model = build()
    other = host.convert(model, "noise")
    first, second, text, plot = report(model, other)
    assert first == measure(model).straightness and second == measure(other).straightness and first != second
    assert text.count("straightness") == 2 and "model_2: " in text and "from t = 0.0000" in text
    assert f"straightness {first:.4g}" in text and f"straightness {second:.4g}" in text
    assert plot.shape == (1, 440, 1000, 3) and 0 <= plot.min() < plot.max() <= 1


def test_the_same_noise_gives_the_same_numbers(build, report):
    model = build()
    assert report(model)[:3] == report(model)[:3]
    assert report(model)[0] != report(model, seed=6)[0]
    assert report(model)[1] == 0.0


def test_guidance_is_of_each_model(build, report):
    model = build()
    first, second, _, _ = report(model, model, cfg=4.0)
    assert first != second and second == report(model)[0]


def test_guidance_needs_a_negative(build, report, unharmed):
    model = build()
    with (
        unharmed(model),
        pytest.raises(ValueError, match=r"cfg is 4 but nothing is connected to 'negative'.*set cfg to 1"),
    ):
        report(model, cfg=4.0, negative=None)
    with unharmed(model), pytest.raises(ValueError, match="cfg_2 is 3 but nothing is connected to 'negative'"):
        report(model, model, cfg_2=3.0, negative=None)


@pytest.mark.parametrize("empty", [[], [[torch.zeros(0, 7, 16), {}]]], ids=["no entry", "no text"])
@pytest.mark.parametrize("name", ["positive", "negative"])
def test_an_empty_conditioning_is_named(build, measure, unharmed, name, empty):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=f"'{name}' is an empty conditioning; connect"):
        measure(model, cfg=4.0, **{name: empty})


def test_nothing_of_the_model_is_changed_and_it_can_be_cancelled(build, report, unharmed, monkeypatch):
    import comfy.model_base
    import comfy.model_management

    model = build()
    with unharmed(model):
        report(model, cfg=2.0)

    def cancel(self, *args, **kwargs):
        raise comfy.model_management.InterruptProcessingException

    with unharmed(model), monkeypatch.context() as patch:
        patch.setattr(comfy.model_base.BaseModel, "apply_model", cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            report(model)
