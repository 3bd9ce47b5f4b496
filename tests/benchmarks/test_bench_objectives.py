"""A quick run of `bench objectives`: every method gives the rows that the tables and the plot are made of."""

import json
import time
from types import SimpleNamespace

import pytest
import torch

BENCHMARK = "objectives"
METRICS = {"accuracy", "new", "kept", "frechet"}

pytestmark = [pytest.mark.host, pytest.mark.slow]


@pytest.fixture(scope="module")
def rows(benchmark, options):
    threads = torch.get_num_threads()
    yield benchmark.run(options)
    torch.set_num_threads(threads)


def test_there_is_a_row_for_each_method_budget_and_nfe(benchmark, rows):
    evaluated = [row for row in rows if "accuracy" in row]
    cells = [(row["method"], row["budget"]) for row in evaluated]
    assert sorted(cells) == sorted([("none", 0), *((m, b) for m in benchmark.METHODS[1:] for b in (1, 2))])
    for row in evaluated:
        assert row.keys() == {"method", "budget", "nfe", "seed"} | METRICS
        assert (row["nfe"], row["seed"]) == (2, 0)
        assert all(0 <= row[name] <= 1 for name in METRICS - {"frechet"}) and row["frechet"] > 0


def test_a_step_of_every_objective_is_timed(benchmark, rows):
    timed = {row["method"]: row for row in rows if "vs_diffusion" in row}
    assert set(timed) == set(benchmark.OBJECTIVES)
    assert timed["diffusion"]["vs_diffusion"] == 1
    assert all(row["cpu_seconds_a_step"] > 0 for row in timed.values())


def test_training_goes_on_from_budget_to_budget_and_changes_the_images(rows):
    for method in ("diff2flow", "diffusion", "naive_fm", "integer_timesteps", "stock"):
        first, second = (row["frechet"] for row in rows if row["method"] == method and row.get("budget"))
        assert first != second


def test_finished_runs_are_taken_from_the_work_folder(benchmark, options, rows, monkeypatch):
    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(benchmark.Bench, "rows", refuse)
    bench = SimpleNamespace(options=options, start=time.monotonic())
    again = benchmark.Bench.kept_rows(bench, "naive_fm", 0)
    assert again == [row for row in rows if row["method"] == "naive_fm" and "accuracy" in row]


def test_the_tables_name_every_method_and_the_plot_has_a_panel_for_each_nfe(benchmark, rows):
    text = benchmark.markdown(rows)
    assert all(f"| {method} | 2 |" in text for method in benchmark.METHODS)
    assert "nan" not in text and json.dumps(rows)
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure()
    benchmark.plot(rows, figure.subplots())
    assert len(figure.axes) == 2
