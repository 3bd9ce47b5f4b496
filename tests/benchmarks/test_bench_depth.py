"""A quick run of `bench depth`: every method gives the rows that the table, the plot and the grid are made of."""

import argparse
import json

import pytest
import torch

BENCHMARK = "depth"
COLUMNS = {"method", "nfe", "seed", "absrel", "delta1", "delta2", "rmse"}

pytestmark = [pytest.mark.host, pytest.mark.slow]


@pytest.fixture(scope="module")
def rows(benchmark, options):
    import folder_paths

    threads, output = torch.get_num_threads(), folder_paths.get_output_directory()
    yield benchmark.run(options)
    assert folder_paths.get_output_directory() == output
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bench(benchmark, options, rows):
    return benchmark.Bench(options)


def test_there_is_a_row_for_each_method_and_number_of_calls(benchmark, rows):
    for method in benchmark.METHODS:
        found = [row for row in rows if row["method"] == method]
        assert [row["nfe"] for row in found] == [1, 2, 10]
        assert all(row["cpu_seconds"] > 0 for row in found)
    for row in rows:
        assert row.keys() - {"cpu_seconds"} == COLUMNS and row["seed"] == 0
        assert 0 < row["absrel"] < 1 and 0 <= row["delta1"] <= row["delta2"] <= 1 and row["rmse"] > 0


def test_objectives_and_ways_of_sampling_differ(benchmark, rows):
    found = {
        tuple((row["absrel"], row["rmse"]) for row in rows if row["method"] == method) for method in benchmark.METHODS
    }
    assert len(found) == len(benchmark.METHODS)


def test_what_needs_no_training_is_ordered_by_what_it_knows(benchmark, rows):
    found = {row["method"]: row for row in rows if row["nfe"] == 0}
    assert tuple(found) == benchmark.BASELINES
    errors = [found[name]["absrel"] for name in ("constant", "luminance", "mean_map", "vae")]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01
    assert found["vae"]["delta1"] > 0.99


def test_exam_and_training_set_share_no_scene(bench):
    assert bench.latents.shape == bench.condition.shape == (4, 4, 12, 12)
    seen, asked = bench.targets[..., 0].flatten(1), bench.encode(bench.images).flatten(1)
    assert seen.amin() == 0 and seen.amax() == 1
    assert torch.cdist(bench.condition.flatten(1), asked).min() > 1


def test_finished_parts_are_taken_from_the_work_folder(options, rows, bench, monkeypatch):
    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(bench, "trained", refuse)
    assert bench.part("naive_fm", 0)["rows"] == [row for row in rows if row["method"] == "naive_fm"]
    monkeypatch.setattr(options, "steps", options.steps + 1)
    with pytest.raises(AssertionError, match="made again"):
        bench.part("naive_fm", 0)


def test_the_verdict_looks_at_every_seed(benchmark):
    def row(nfe, seed, absrel, delta1):
        return {"nfe": nfe, "seed": seed, "absrel": absrel, "delta1": delta1, "cpu_seconds": 1.0}

    good = [row(nfe, seed, 0.02, 0.99) for nfe in (1, 2, 10) for seed in (0, 1)]
    for changed, words in (((0.02, 0.99), ("yes", "yes")), ((0.09, 0.99), ("no", "yes")), ((0.02, 0.9), ("no", "yes"))):
        rows = [*good[:3], row(2, 1, *changed), *good[4:]]
        text = benchmark.verdict([{**each, "method": method} for method in benchmark.METHODS for each in rows])[0]
        assert (f"at 2 NFE with every seed: {words[0]};" in text) and text.endswith(f"with every seed: {words[1]}")
    rows = [row(1, 0, 0.03, 0.99), *good[1:]]
    text = benchmark.verdict([{**each, "method": method} for method in benchmark.METHODS for each in rows])[0]
    assert "1.250 (1.000 to 1.500), <= 1.1 with every seed: no" in text


def test_table_plot_and_grid_are_drawn(benchmark, rows, bench):
    text = benchmark.markdown(rows)
    assert all(f"| {method} | {nfe} | " in text for method in benchmark.METHODS for nfe in (1, 2, 10))
    assert all(f"| {method} |  | " in text for method in benchmark.BASELINES)
    assert " nan" not in text and "- diffusion_ddim: delta1 >= 0.95" in text
    assert json.dumps(rows)
    shown = {**bench.part("none", 0)["shown"], **bench.part("diffusion", 0)["shown"]}
    assert list(shown)[:3] == ["image", "depth", "diffusion, 1 NFE"] and len(shown) == 2 + 2 * 3
    assert benchmark.grid(shown).size == (180 + 8 * 96, 8 * 96)
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure()
    benchmark.plot(rows, figure.subplots())
    assert len(figure.axes) == 2 and all(len(panel.lines) for panel in figure.axes)


def test_the_sweep_has_a_row_for_each_rank_budget_and_number_of_calls(benchmark, options, tmp_path):
    sweep, threads = benchmark.sweep, torch.get_num_threads()
    options = argparse.Namespace(**{**vars(options), "sweep": True, "work": tmp_path})
    found = benchmark.run(options)
    torch.set_num_threads(threads)
    assert benchmark.stem(options) == "depth_sweep"
    chosen = [row for row in found if "tuned" in row]
    assert [row["tuned"] for row in chosen] == list(sweep.OBJECTIVES)
    assert all(row["rate"] in options.rates for row in chosen)
    cells = [(row["method"], row["rank"], row["budget"], row["nfe"]) for row in found if "method" in row]
    assert cells == [(name, 2, budget, nfe) for name in sweep.OBJECTIVES for budget in (2, 4) for nfe in sweep.NFE]
    first, second = (row["absrel"] for row in found if row.get("method") == "naive_fm" and row["nfe"] == 2)
    assert first != second
    assert "| 2 | 4 | " in sweep.markdown(found) and "- diffusion: learning rate " in sweep.markdown(found)
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure()
    benchmark.plot(found, figure.subplots())
    assert [panel.get_title() for panel in figure.axes] == ["rank 2"]


def test_who_is_ahead_is_said_only_if_every_seed_agrees(benchmark):
    ahead = benchmark.sweep.ahead
    assert ahead({"diff2flow": [1.0, 2.0], "naive_fm": [2.0, 3.0]}) == "diff2flow"
    assert ahead({"diff2flow": [1.0, 4.0], "naive_fm": [2.0, 3.0]}) == "-"
