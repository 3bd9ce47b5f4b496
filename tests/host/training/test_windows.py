"""Piecewise reflow through the nodes: pairs with states at the edges, training on them, and sampling the LoRA."""

import re
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def generate(node, output, build, conditioning):
    """`generate(windows=..., steps=...)` -> eight pairs of the small model under guidance 3."""
    generator = node("D2FReflowPairs")
    widgets = {one.id: one.default for one in generator.define_schema().inputs if hasattr(one, "default")}
    small = {"width": 64, "height": 64, "count": 8, "steps": 8, "cfg": 3.0, "shard_size": 3, "storage": "fp32"}
    positive, negative = conditioning

    def run(**given):
        generator.hidden = SimpleNamespace(unique_id="7")
        values = {**widgets, **small, **given}
        wrapped = {name: [value] for name, value in values.items() if value is not None}
        return generator.execute([build()], positive=[positive], negative=[negative], **wrapped).result

    return run


@pytest.fixture
def told(part, monkeypatch):
    """The remarks about sampling that reach the node."""
    texts = []
    monkeypatch.setattr(part("host.guard"), "tell", texts.append)
    return texts


def test_states_at_the_edges_are_those_of_a_shorter_run(generate):
    """The pairs are those of one window bit for bit; the states are where the solver stopped."""
    one = generate(name="one").__getitem__(0).read(range(8))
    pairs, report, _ = generate(name="four", windows="4")
    four = pairs.read(range(8))
    assert torch.equal(one.eps, four.eps) and torch.equal(one.x0, four.x0) and "in 4 windows" in report
    assert four.waypoints.shape == (8, 3, 4, 8, 8)
    path = torch.cat([four.eps[:, None], four.waypoints, four.x0[:, None]], 1)
    steps = path.diff(dim=1).flatten(2).norm(dim=2)
    whole = (four.x0 - four.eps).flatten(1).norm(dim=1)
    assert bool((steps < 0.8 * whole[:, None]).all()) and bool((steps.sum(1) >= whole * 0.999).all())


def test_steps_that_miss_an_edge_are_refused_before_running(node, generate):
    text = node("D2FReflowPairs").validate_inputs(steps=[25], windows=["4"])
    assert "steps is 25, but with 4 windows" in text and "set steps to 24 or 28" in text
    assert node("D2FReflowPairs").validate_inputs(steps=[24], windows=["4"]) is True
    with pytest.raises(ValueError, match="set steps to 24 or 28"):
        generate(name="wrong", steps=25, windows="4")


def test_a_set_of_eight_is_loaded_in_fewer_windows(node, generate):
    generate(name="eight", windows="8")
    load = node("D2FLoadPairs").execute
    assert load("eight").result[0].windows == 8
    assert load("eight", "2").result[0].windows == 2 and "in 2 windows" in load("eight", "2").result[1]
    assert load("eight", "1").result[0].read([0]).waypoints is None
    generate(name="two", windows="2")
    with pytest.raises(ValueError, match="generated with 2 windows and cannot be read in 4; choose 1 or 2"):
        load("two", "4")


def test_training_resumes_bit_for_bit_and_other_windows_are_another_run(node, build, train, same, generate, output):
    pairs = generate(name="four", windows="4")[0]
    settings = {"batch_size": 3, "ema": 0.9, "density": "u_shaped", "loss": "huber"}

    def run(found, steps, name):
        return train(build(), None, None, pairs=[found], steps=steps, run_name=name, **settings)[0]

    whole = run(pairs, 6, "whole")
    run(pairs, 3, "parts")
    assert same(run(pairs, 6, "parts"), whole)
    assert whole.facts.training["windows"] == 4 and whole.facts.start == "noise"
    two = run(pairs.in_windows(2), 6, "parts")
    assert (output / "diff2flow" / "runs" / "parts_00002").is_dir() and two.facts.training["windows"] == 2
    assert "windows" not in run(pairs.in_windows(1), 6, "one").facts.training


def test_the_loss_is_that_of_the_chord(host, part, build, generate):
    """Items give the states to the core, whose interpolant lies on the chord of the window of t."""
    from diff2flow_kit.d2f_core import virtual_pair

    pairs = generate(name="two", windows="2")[0]
    with host.training(build()) as network:
        items = part("reflow.pair_items").ReflowPairItems(network, build(), pairs, None)
        batch = items.batch([3, 5], [False, False])
        assert batch.windows == 2 and torch.equal(batch.waypoints, pairs.read([3, 5]).waypoints)
        t = torch.tensor([0.2, 0.7], dtype=torch.float64)
        eps, x0 = virtual_pair(batch.eps, batch.waypoints, batch.x0, t)
        middle = batch.waypoints[:, 0]
        torch.testing.assert_close((x0 - eps)[0], 2 * (middle - batch.eps)[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close((x0 - eps)[1], 2 * (batch.x0 - middle)[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "missed"),
    [(4, ""), (8, ""), (12, ""), (7, "0.75, 0.5, 0.25"), (2, "0.75, 0.25"), (6, "0.75, 0.25"), (1, "0.75, 0.5, 0.25")],
)
def test_steps_that_miss_an_edge_are_said_at_the_sampler(
    node, build, train, generate, conditioning, told, steps, missed
):
    lora = train(build(), None, None, pairs=[generate(name="four", windows="4")[0]], steps=1)[0]
    model, info = node("D2FLoadLora").execute(build(), "none", 1.0, lora).result[:2]
    assert "sample it in 4 steps, or a multiple of 4, with the grid uniform" in info
    positive, negative = conditioning
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    node("D2FKSampler").execute(
        model=model, positive=positive, negative=negative, latent_image=latent, seed=1, cfg=1.0,
        solver={"solver": "euler"}, grid={"grid": "uniform"}, steps=steps, denoise=1.0,
    )  # fmt: skip
    assert len(told) == bool(missed)
    if missed:
        assert f"these {steps} steps do not stop at {missed}, where a part ends" in told[0]


def test_the_trajectory_report_says_the_windows_of_a_lora(node, host, build, train, generate, conditioning):
    lora = train(build(), None, None, pairs=[generate(name="four", windows="4")[0]], steps=1)[0]
    model = node("D2FLoadLora").execute(build(), "none", 1.0, lora).result[0]
    assert host.own_windows(model) == host.own_windows(model.clone()) == 4 and host.own_windows(build()) == 1
    report = node("D2FTrajectory")
    report.hidden = SimpleNamespace(unique_id="7")
    found = report.execute(
        build(), conditioning[0], width=64, height=64, count=2, seed=1, cfg=1.0, cfg_2=1.0, reference_steps=12,
        model_2=model,
    ).result  # fmt: skip
    whole, within = found[1], re.findall(r"within its 4 windows (\S+)", found[2])
    assert len(within) == 1 and 0 < float(within[0]) < whole
