"""A quick run of `bench flow`: every network is probed, the twin is trained and reflowed, the tables hold it."""

import pytest
import torch

BENCHMARK = "flow"

pytestmark = [pytest.mark.host, pytest.mark.slow]


@pytest.fixture(scope="module")
def rows(benchmark, options):
    threads = torch.get_num_threads()
    yield benchmark.run(options)
    torch.set_num_threads(threads)


def test_every_network_is_named_and_every_wrong_latent_refused(benchmark, rows):
    probed = [row for row in rows if row["part"] == "probe"]
    assert len(probed) == 22 and all(row["right"] for row in probed)
    refused = [row for row in rows if row["part"] == "refuse"]
    assert len(refused) == 11 * len(benchmark.WRONG)
    assert sum(row["right"] for row in refused) >= len(refused) - 1


@pytest.mark.parametrize("kind", ["v", "x0"])
def test_networks_of_another_output_are_ones(benchmark, kind):
    """Algebra of its own: v and x_dm, or x0 and x_dm, give back the eps of the network."""
    bench = benchmark.Bench.__new__(benchmark.Bench)
    bench.eps = benchmark.networks.load_model(benchmark.networks.WEIGHTS)
    sampling, generator = bench.eps.get_model_object("model_sampling"), torch.Generator().manual_seed(0)
    x, context = (torch.randn(shape, generator=generator) for shape in ((1, 4, 12, 12), (1, 24, 128)))
    with torch.inference_mode():
        network, timestep = bench.eps.model.diffusion_model, torch.tensor([400.0])
        eps = network(x, timestep, context=context)
        (wrapper,) = getattr(benchmark, f"as_{kind}")(bench.eps).wrappers["diffusion_model"][None]
        output = wrapper(lambda x, t, **kwargs: network(x, t, **kwargs), x, timestep, context=context)
    sigma_ve = float(sampling.sigmas[400])
    alpha, sigma = 1 / (1 + sigma_ve**2) ** 0.5, sigma_ve / (1 + sigma_ve**2) ** 0.5
    again = {"v": sigma * x + alpha * output, "x0": (x - alpha * output) / sigma}[kind]
    assert torch.allclose(again, eps, atol=1e-4)


def test_training_and_reflow_change_the_images(rows):
    for part, names in (("cyan", ("none", "flow")), ("reflow", ("none", "reflow"))):
        found = {row["method"]: row["frechet"] for row in rows if row["part"] == part and row["nfe"] == 2}
        assert found[names[0]] != found[names[1]]


def test_below_t_min_there_is_a_row_for_each_network_and_time(rows):
    found = [row for row in rows if row["part"] == "below"]
    assert [row["network"] for row in found] == ["latents", *["ideal"] * 3, *["demo"] * 3]
    assert 0.3 < found[0]["variance"] < 3 and found[0]["first"] > found[0]["second"] > found[0]["third"] > 0
    for row in found[1:]:
        assert 0 < row["corrected"] <= min(row["as_is"], row["as_v"]) and row["t"] in (0.0, 0.02, 0.04)
    assert found[1]["as_is"] > found[2]["as_is"] > found[3]["as_is"]  # nearer to t_min, where nothing is wrong


def test_the_tables_hold_every_row(benchmark, rows):
    text = benchmark.markdown(rows)
    assert "nan" not in text
    assert all(f"| {name} |" in text for name in (*benchmark.WRONG, "v, zero terminal SNR", "teacher", "reflow"))
    assert "| ideal, error | 0.02 |" in text and "| demo, loss | 0.04 |" in text and "Variance of the latents:" in text
