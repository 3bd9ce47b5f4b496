"""A quick run of `bench terminal`: every way of sampling gives the rows that table, plot and grid are made of."""

import json

import pytest
import torch

BENCHMARK = "terminal"

pytestmark = [pytest.mark.host, pytest.mark.slow]


@pytest.fixture(scope="module")
def rows(benchmark, options):
    import folder_paths

    threads, output = torch.get_num_threads(), folder_paths.get_output_directory()
    yield benchmark.run(options)
    assert folder_paths.get_output_directory() == output
    torch.set_num_threads(threads)


def test_there_is_a_row_for_each_method_and_prompt(benchmark, rows):
    found = [(row["method"], row["prompt"]) for row in rows]
    assert found == [(method, name) for method in benchmark.METHODS for name in ("black", "white")]
    for row in rows:
        assert row["seed"] == 0 and 0 < row["mean_error"] < row["latent_error"] < 10
        assert ("cpu_seconds" in row) == (row["method"] not in ("before", "ddim_before"))


def test_training_and_ways_of_sampling_differ(rows):
    assert len({row["mean_error"] for row in rows if row["prompt"] == "black"}) == 6


def test_errors_are_those_of_the_mean_and_of_the_latent(benchmark, options):
    bench = benchmark.Bench(options)
    solid = torch.zeros(1, 4, 2, 2)
    latents = torch.tensor([3.0, -1.0]).view(1, 1, 1, 2).expand(2, 4, 2, 2)  # mean 1, mean square 5
    assert bench.errors(latents, solid) == {"mean_error": 1.0, "latent_error": round(5**0.5, 4)}
    black, white = (bench.vae.decode(latent).mean() for latent in bench.solid.values())
    assert black < 0.05 and white > 0.95


def test_the_training_set_holds_scenes_and_solid_images(benchmark, options):
    bench = benchmark.Bench(options)
    assert bench.latents.shape == (6, 4, 12, 12)  # 4 scenes and each solid image once in a quick run
    assert torch.equal(bench.latents[4:], torch.cat(list(bench.solid.values())))
    assert len(bench.positive[0][0]) == 6


def test_finished_parts_are_taken_from_the_work_folder(benchmark, options, rows, monkeypatch):
    def refuse(*_):
        raise AssertionError("made again")

    bench = benchmark.Bench(options)
    monkeypatch.setattr(bench, "trained", refuse)
    assert bench.part("diff2flow", 0)["rows"] == [row for row in rows if row["method"] == "diff2flow"]
    monkeypatch.setattr(options, "steps", options.steps + 1)
    with pytest.raises(AssertionError, match="made again"):
        bench.part("diff2flow", 0)


def test_table_plot_and_grid_are_drawn(benchmark, options, rows):
    text = benchmark.markdown(rows)
    assert all(f"| {method} | " in text for method in benchmark.METHODS)
    assert "nan" not in text and "- diffusion_ddim, white: mean_error by that of ddim_before: " in text
    assert json.dumps(rows)
    shown = benchmark.Bench(options).part("none", 0)["shown"]
    assert list(shown) == ["before", "ddim_before"]
    assert benchmark.grid(shown).size == (180 + 8 * 96, 2 * 96)
    figures = pytest.importorskip("matplotlib.figure")
    axes = figures.Figure().subplots()
    benchmark.plot(rows, axes)
    assert len(axes.patches) == 12
