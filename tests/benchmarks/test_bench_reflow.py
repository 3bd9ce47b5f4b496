"""A quick run of `bench reflow`: every model gives the rows that the table, the plot and the grid are made of."""

import argparse
import json
from types import SimpleNamespace

import pytest
import torch

BENCHMARK = "reflow"
COLUMNS = {"model", "nfe", "cfg", "seed", "accuracy", "frechet", "frechet_teacher", "straightness"}

pytestmark = [pytest.mark.host, pytest.mark.slow]


@pytest.fixture(scope="module")
def rows(benchmark, options):
    import folder_paths

    threads, output = torch.get_num_threads(), folder_paths.get_output_directory()
    yield benchmark.run(options)
    assert folder_paths.get_output_directory() == output
    torch.set_num_threads(threads)


def test_there_is_a_row_for_each_model_nfe_and_guidance(benchmark, rows):
    evaluated = [row for row in rows if row["model"] in benchmark.MODELS]
    expected = {**benchmark.EVALUATED, "teacher": [(8, 3.0)]}  # 4 steps in a quick run
    for name in benchmark.MODELS:
        assert [(row["nfe"], row["cfg"]) for row in evaluated if row["model"] == name] == expected[name]
    for row in evaluated:
        assert row.keys() - {"cpu_seconds"} == COLUMNS and row["seed"] == 0
        assert 0 <= row["accuracy"] <= 1 and row["frechet"] > 0 and row["frechet_teacher"] > 0
        assert (row["straightness"] is None) == (row["model"] == "ddim")


def test_guidance_bends_the_paths_and_students_differ_from_the_model(benchmark, rows):
    def straight(name, cfg):
        return next(row["straightness"] for row in rows if (row["model"], row.get("cfg")) == (name, cfg))

    assert straight("teacher", 3.0) == straight("converted", 3.0) > straight("converted", 1.0) > 0
    assert len({straight(name, 1.0) for name in ("converted", "reflow", "reflow_diffusion", "reflow_integer")}) == 4


def test_training_and_pairs_are_timed_and_renders_are_graded(rows):
    assert all(row["cpu_seconds"] > 0 for row in rows if row["model"].startswith("reflow"))
    (pairs,) = (row for row in rows if row["model"] == "pairs")
    assert pairs["pairs_a_second"] > 0 and pairs["vs_sampling"] > 0
    (renders,) = (row for row in rows if row["model"] == "renders")
    assert renders["frechet"] > 0


def test_finished_parts_are_taken_from_the_work_folder(benchmark, options, rows):
    def refuse(*_):
        raise AssertionError("made again")

    bench = SimpleNamespace(options=options, base=refuse, rate=refuse, student=refuse, say=lambda text: None)
    again = benchmark.Bench.kept(bench, "reflow", 0)
    assert again["rows"] == [row for row in rows if row["model"] == "reflow"]
    options_of_others = argparse.Namespace(**{**vars(options), "steps": options.steps + 1})
    bench.options = options_of_others
    with pytest.raises(AssertionError, match="made again"):
        benchmark.Bench.kept(bench, "reflow", 0)


def test_table_plot_and_grid_are_drawn(benchmark, options, rows):
    text = benchmark.markdown(rows)
    assert "| teacher | 8 | 3 |" in text
    cells = [(name, nfe, cfg) for name, evaluated in benchmark.EVALUATED.items() for nfe, cfg in evaluated]
    assert all(f"| {name} | {nfe} | {cfg:g} |" in text for name, nfe, cfg in cells)
    assert "nan" not in text and "by the teacher's: " in text and "times the rate of plain sampling" in text
    assert json.dumps(rows)
    bench = SimpleNamespace(options=options, base=None, rate=None, student=None, say=lambda text: None)
    shown = benchmark.Bench.kept(bench, "reflow", 0)["shown"]
    assert benchmark.grid(shown).size == (180 + 8 * 96, 3 * 96)
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure()
    benchmark.plot(rows, figure.subplots())
    assert len(figure.axes) == 3
