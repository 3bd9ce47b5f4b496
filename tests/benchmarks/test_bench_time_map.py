"""The published time map as a control: its closed form errors, and a quick run of `bench time_map`."""

import pytest
import torch

from d2f_core import FlowTime

BENCHMARK = "evidence/time_map"
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2

pytestmark = pytest.mark.host


@pytest.fixture(params=["eps", "v"])
def alignment(request, benchmark):
    from diff2flow_kit.d2f_core import FlowAlignment, NoiseSchedule

    return FlowAlignment(NoiseSchedule.from_betas(BETAS), request.param)


def test_the_exact_map_has_no_error_inside_the_table_and_the_published_one_has(benchmark, alignment):
    for t in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        assert benchmark.gaussian_error(alignment, "exact", t) < 1e-9
        assert benchmark.gaussian_error(alignment, "published", t) > 1e-5
    errors = [benchmark.gaussian_error(alignment, "published", t) for t in (0.5, 0.9, 0.97)]
    assert errors == sorted(errors) and errors[0] < 0.01 < errors[2]  # grows to the data


def test_the_published_place_of_a_row_is_one_too_far(benchmark, alignment):
    rows = torch.tensor([0.0, 10.0, 500.0, 999.0], dtype=torch.float64)
    t = FlowTime.of(alignment.flow_time(rows))
    assert torch.allclose(benchmark.PublishedTimeMap(alignment).timestep(t), rows + 1, atol=1e-6)
    assert torch.allclose(alignment.timestep(t), rows, atol=1e-6)


def test_the_published_place_wraps_around_below_the_noisiest_row(benchmark, alignment):
    place = benchmark.PublishedTimeMap(alignment).timestep(FlowTime.of(torch.tensor([0.0], dtype=torch.float64)))
    assert place.item() == pytest.approx(1001 - 1 / (1 - alignment.t_min))


@pytest.mark.slow
def test_a_quick_run_has_a_row_for_each_map_and_number_of_calls(benchmark, options):
    threads = torch.get_num_threads()
    rows = benchmark.run(options)
    torch.set_num_threads(threads)
    sampled = [row for row in rows if row["part"] == "sampler"]
    assert [(row["map"], row["nfe"]) for row in sampled] == [(name, nfe) for name in benchmark.MAPS for nfe in (1, 2)]
    assert len({row["distance"] for row in sampled}) == 4 and all(0 <= row["accuracy"] <= 1 for row in sampled)
    text = benchmark.markdown(rows)
    assert "| published | 2 | " in text and "nan" not in text
    figures = pytest.importorskip("matplotlib.figure")
    axes = figures.Figure().subplots()
    benchmark.plot(rows, axes)
    assert len(axes.lines) >= 2
