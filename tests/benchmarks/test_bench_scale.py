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
    one, eight = (benchmark.step(1e15, benchmark.FULL, 10**8, cards) for cards in (1, 8))
    assert one["s_traffic"] == one["GB_per_step"] == 0
    assert eight["GB_per_step"] == pytest.approx(2 * 7 / 8 * 4 * 0.1)
    assert eight["s_per_step"] == pytest.approx(one["s_per_step"] / 8 + eight["s_traffic"], rel=1e-3)


def test_sharded_weights_are_gathered_twice_and_their_gradients_summed_once(benchmark):
    """In float32 12 bytes per weight, less the part that is there; on each card its part of 20 bytes per weight."""
    assert benchmark.sent(benchmark.SHARDED, 1000, 4, 4) == pytest.approx(3 / 4 * 12 * 1000)
    assert benchmark.sent(benchmark.SHARDED, 1000, 4, 4, benchmark.GLOO) == pytest.approx(3 / 4 * 16 * 1000)
    assert benchmark.sent(benchmark.SHARDED, 1000, 4, 2) == benchmark.sent(benchmark.FULL, 1000, 4, 2)
    assert benchmark.held(benchmark.SHARDED, 10**9, 10**9, 8) == pytest.approx(20 / 8)
    assert benchmark.held(benchmark.FULL, 10**9, 10**9, 8) == pytest.approx(20)
    assert benchmark.held("LoRA", 10**8, 10**9, 8) == pytest.approx(2 + 2)


@pytest.mark.parametrize("kind", ["LoRA", "all weights", "all weights, sharded"])
def test_the_committed_bytes_confirm_the_formula(root, kind):
    rows = json.loads((root / "benchmarks/results/scale.json").read_text("utf-8"))["rows"]
    measured = {row["processes"]: row for row in rows if row["row"] == "measured" and row["kind"] == kind}
    assert 1 not in measured or measured[1]["GB_per_step"] < 1e-4
    assert measured[2]["GB_per_step"] == pytest.approx(measured[2]["GB_by_formula"], rel=0.05)
