"""Pictures of other sizes: how they are rendered and counted, and a quick run of `bench resolution`."""

import pytest
import torch

BENCHMARK = "evidence/resolution"

pytestmark = pytest.mark.host


@pytest.fixture
def sizes(shared):
    return shared("resolution.sizes")


@pytest.fixture
def drawn(shared):
    import bench_shared

    return bench_shared.some_scenes(77, 40)


def test_sizes_are_fractions_of_the_native_one_in_steps_that_the_network_halves(sizes):
    assert {name: sizes.size_of(name, 96) for name in sizes.FRACTIONS} == {"larger": (128, 128), "wide": (64, 160)}
    assert {name: sizes.size_of(name, 128) for name in sizes.FRACTIONS} == {"larger": (160, 160), "wide": (96, 224)}


@pytest.mark.parametrize("height, width", [(64, 160), (96, 64)])
def test_the_square_in_the_middle_is_the_scene_at_that_size(sizes, drawn, height, width):
    from diff2flow_kit.demo.render import render_batch

    images = sizes.renders(drawn[:6], height, width)
    assert images.shape == (6, height, width, 3)
    square = render_batch(drawn[:6], min(height, width))[0]
    assert float((sizes.middle(images) - square).abs().max()) < 1e-3


def test_a_solid_is_in_one_place_and_two_of_them_in_two(sizes, drawn):
    colors = [scene.color for scene in drawn]
    once = sizes.renders(drawn, 64, 160)
    assert sizes.duplicated(once, colors) == 0
    squares = sizes.renders(drawn, 64, 64)
    plain = [i for i, scene in enumerate(drawn) if scene.color in sizes.HUES]
    twice = torch.cat([squares, squares], dim=2)
    counts = [sizes.places_of(twice[i], colors[i]) for i in plain]
    assert len(plain) > 10 and counts == [2] * len(plain)
    assert sizes.duplicated(twice, colors) == 1


def test_pictures_of_colours_that_rooms_have_do_not_count(sizes):
    red = torch.zeros(1, 32, 32, 3)
    red[:, 4:12, 4:12, 0] = red[:, 20:28, 20:28, 0] = 0.9
    assert sizes.duplicated(torch.cat([red, red]), ["red", "blue"]) == 1 == sizes.duplicated(red, ["red"])
    assert sizes.duplicated(red, ["yellow"]) == 0


@pytest.mark.slow
def test_a_quick_run_has_a_row_for_each_size_method_and_number_of_calls(benchmark, options):
    options.sizes = ["wide"]
    threads = torch.get_num_threads()
    rows = benchmark.run(options)
    torch.set_num_threads(threads)
    found = [(row["method"], row["nfe"]) for row in rows if "method" in row]
    names = ["none", "none_ddim", "diff2flow", "diffusion", "diffusion_ddim", "naive_fm", "integer_timesteps"]
    assert sorted(found) == sorted([("renders", 2), *((name, nfe) for name in names for nfe in (1, 2))])
    assert {row["size"] for row in rows if "size" in row} == {"64x160"}
    renders = next(row for row in rows if row.get("method") == "renders")
    assert renders["accuracy"] > 0.95 and renders["duplicated"] == 0
    assert len({row["frechet"] for row in rows if row.get("nfe") == 2}) == 8
    assert next(row["tuned"] for row in rows if "tuned" in row) == "diff2flow, 64x160"
    text = benchmark.markdown(rows)
    assert "| 64x160 | diffusion_ddim | 2 | " in text and " nan" not in text
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure()
    benchmark.plot(rows, figure.subplots())
    assert [panel.get_title() for panel in figure.axes] == ["64x160, 2 NFE"]
