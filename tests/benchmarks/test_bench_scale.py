"""The formulas of the scale benchmark, and that its committed figures follow from them."""

import json

import pytest

pytest.importorskip("diffusers")


BENCHMARK = "scale"


def test_operations_of_stable_diffusion(benchmark):
    """0.40 tera multiply-adds for a latent of 64 x 64, as others have counted."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(**benchmark.SD).to("meta")
    assert benchmark.operations(unet, 64, 77) == pytest.approx(0.803e12, rel=0.01)


def test_more_cards_share_the_work_and_send_almost_everything_twice(benchmark):
    one, eight = benchmark.step(1e15, 10**8, 1), benchmark.step(1e15, 10**8, 8)
    assert one["s_traffic"] == one["GB_per_step"] == 0
    assert eight["GB_per_step"] == pytest.approx(2 * 7 / 8 * 4 * 0.1)
    assert eight["s_per_step"] == pytest.approx(one["s_per_step"] / 8 + eight["s_traffic"], rel=1e-3)


def test_the_committed_bytes_confirm_the_formula(root):
    rows = json.loads((root / "benchmarks/results/scale.json").read_text("utf-8"))["rows"]
    measured = {row["processes"]: row for row in rows if row["row"] == "measured"}
    assert measured[1]["GB_per_step"] < 1e-4
    assert measured[2]["GB_per_step"] == pytest.approx(measured[2]["GB_by_formula"], rel=0.05)
