"""The figures of `bench flow --parts below`: against closed forms, draws, and a network whose answers are known."""

from math import sqrt

import pytest
import torch

T_MIN = 0.06404  # of Stable Diffusion's schedule

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def below(shared):
    return shared("flow.below")


@pytest.fixture(scope="module")
def alignment(pack):
    """Of Stable Diffusion, an eps network."""
    from diff2flow_kit.d2f_core import FlowAlignment, NoiseSchedule

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return FlowAlignment(NoiseSchedule.from_betas(betas), "eps")


@pytest.mark.parametrize("t, plain, half", [(0.0, 6.8e-2, 1.7e-2), (0.02, 5.0e-2, 1.2e-2), (0.05, 1.7e-2, 4e-3)])
def test_errors_are_those_of_the_table_in_the_docs(below, t, plain, half):
    """docs/math.md 4, for a state of 1; a state has the deviation sqrt(t^2 d^2 + s^2) / sqrt(t^2 + s^2)."""
    for deviation, wanted in ((1.0, plain), (0.5, half)):
        found = below.error(torch.zeros(1), torch.tensor([deviation**2], dtype=torch.float64), t, T_MIN)
        spread = sqrt((t**2 * deviation**2 + (1 - t) ** 2) / (t**2 + (1 - t) ** 2))
        assert sqrt(found.at(0.0)) / spread == pytest.approx(wanted, rel=0.05)
        assert found.best == pytest.approx(deviation**2, rel=0.01)
        assert found.at(deviation**2) < 1e-3 * found.at(0.0)


def test_errors_are_those_of_draws(below, alignment):
    """Through the pack's own velocity, for three directions with means: what the ideal network of row T - 1 answers."""
    mean, variances = torch.tensor([0.0, 8.0, -20.0]).double(), torch.tensor([20.0, 0.5, 0.1]).double()
    generator, count = torch.Generator().manual_seed(1), 200_000
    x0 = mean + variances.sqrt() * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    eps = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    end, end_sigma = below.weights(alignment.t_min)
    for t in below.TIMES:
        time = torch.full((count,), t, dtype=torch.float64)
        x = t * x0 + (1 - t) * eps
        r = alignment.to_diffusion(x, time)
        said = mean + end * variances / (end**2 * variances + end_sigma**2) * (r - end * mean)
        velocity = alignment.velocity((r - end * said) / end_sigma, x, time)
        right = mean + t * variances / (t**2 * variances + (1 - t) ** 2) * (x - t * mean)
        wrong = velocity - (right - x) / (1 - t)
        found = [below.error(mean[i : i + 1], variances[i : i + 1], t, alignment.t_min) for i in range(3)]
        for delta2 in (0.0, 0.6, 1.0):
            moved = wrong - (end - below.weights(t)[0]) * delta2 * r / (1 - t)
            assert moved.square().mean(0).tolist() == pytest.approx([one.at(delta2) for one in found], rel=0.02)
        whole = below.error(mean, variances, t, alignment.t_min)
        assert whole == pytest.approx([sum(one) / 3 for one in zip(*found)])


def test_the_parabola_is_that_of_losses(below, alignment):
    """For any answer of a network: its flow matching loss as it is, and read as that of a v network, delta = 1."""
    from diff2flow_kit.d2f_core import FlowAlignment, Interpolant

    generator, t = torch.Generator().manual_seed(2), 0.02
    x0, eps, answer = (torch.randn(5, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    pair = Interpolant(x0, eps, torch.full((5,), t, dtype=torch.float64))
    asked = []
    sums = below.squares(alignment, pair, lambda s, given: asked.append((s, float(given.timestep[0]))) or answer)
    assert asked == [(pytest.approx(0.98), pytest.approx(999.0))]
    found = below.Parabola(*(sums / x0.numel()).tolist())

    def loss(output, reading):
        return float((reading.velocity(output, pair.x_fm, pair.t) - (x0 - eps)).square().mean())

    assert found.at(0.0) == pytest.approx(loss(answer, alignment), rel=1e-6)
    # The v of the same answer at row T - 1, read with alpha and sigma of t: x0 = alpha_t r - sigma_T v, up to sigma.
    r, (end, end_sigma) = alignment.to_diffusion(pair.x_fm, pair.t), below.weights(alignment.t_min)
    v = (answer - end_sigma * r) / end
    as_v = below.weights(t)[0] * r - end_sigma * v
    # As it is, x0 = alpha_T r - sigma_T v.
    same = FlowAlignment(alignment.schedule, "v")
    assert found.at(0.0) == pytest.approx(loss(v, same), rel=1e-6)
    assert found.at(1.0) == pytest.approx(float(((as_v - pair.x_fm) / (1 - t) - (x0 - eps)).square().mean()), rel=1e-6)
    assert found.at(found.best) < min(found.at(found.best + step) for step in (-0.1, 0.1))


def test_parts_that_are_not_run_stay_in_the_results(shared, root, monkeypatch, tmp_path):
    import json
    import sys

    bench_shared = sys.modules["bench_shared"]
    monkeypatch.setattr(bench_shared, "RESULTS", tmp_path)
    one, two, new = ({"part": part, "value": i} for i, part in enumerate(("a", "b", "b")))
    assert bench_shared.with_other_parts("mine", [new]) == [new]
    (tmp_path / "mine.json").write_text(json.dumps({"rows": [one, two]}))
    assert bench_shared.with_other_parts("mine", [new]) == [one, new]


def test_the_file_says_how_each_part_was_made(root, tmp_path):
    import importlib.util
    import json

    spec = importlib.util.spec_from_file_location("bench_harness", root / "benchmarks" / "harness.py")
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)
    file = tmp_path / "mine.json"
    first = {"parts": harness.made(file, ["a", "b"], {"command": "one"}), "rows": [{"part": "a"}]}
    assert first["parts"] == {"a": {"command": "one"}, "b": {"command": "one"}}
    harness.write(file, first)
    assert json.loads(file.read_text()) == first
    assert harness.made(file, ["b"], {"command": "two"}) == {"a": {"command": "one"}, "b": {"command": "two"}}


def test_the_committed_results_say_how_they_were_made(root):
    import json

    record = json.loads((root / "benchmarks" / "results" / "flow.json").read_text(encoding="utf-8"))
    parts = {row["part"] for row in record["rows"]} - {"refuse"}  # made with those of the probe
    assert parts == record["parts"].keys()
    for name, made in record["parts"].items():
        assert made["command"].startswith("python dev.py bench flow") and name in made["command"]
