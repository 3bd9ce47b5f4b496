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
    assert len(probed) == 18 and all(row["right"] for row in probed)
    refused = [row for row in rows if row["part"] == "refuse"]
    assert len(refused) == 9 * len(benchmark.WRONG)
    assert sum(row["right"] for row in refused) >= len(refused) - 1


def test_the_v_network_is_one(benchmark):
    """Algebra of its own: v and x_dm give back the eps of the network."""
    bench = benchmark.Bench.__new__(benchmark.Bench)
    bench.eps = benchmark.networks.load_model(benchmark.networks.WEIGHTS)
    sampling, generator = bench.eps.get_model_object("model_sampling"), torch.Generator().manual_seed(0)
    x, context = (torch.randn(shape, generator=generator) for shape in ((1, 4, 12, 12), (1, 24, 128)))
    with torch.inference_mode():
        eps = bench.eps.model.diffusion_model(x, torch.tensor([400.0]), context=context)
        clone = benchmark.as_v(bench.eps)
        (wrapper,) = clone.wrappers["diffusion_model"][None]
        v = wrapper(lambda x, t, **kwargs: bench.eps.model.diffusion_model(x, t, **kwargs), x, torch.tensor([400.0]),
                    context=context)  # fmt: skip
    sigma_ve = float(sampling.sigmas[400])
    alpha, sigma = 1 / (1 + sigma_ve**2) ** 0.5, sigma_ve / (1 + sigma_ve**2) ** 0.5
    assert torch.allclose(sigma * x + alpha * v, eps, atol=1e-4)


def test_training_and_reflow_change_the_images(rows):
    for part, names in (("cyan", ("none", "flow")), ("reflow", ("none", "reflow"))):
        found = {row["method"]: row["frechet"] for row in rows if row["part"] == part and row["nfe"] == 2}
        assert found[names[0]] != found[names[1]]


def test_the_tables_hold_every_row(benchmark, rows):
    text = benchmark.markdown(rows)
    assert "nan" not in text
    assert all(f"| {name} |" in text for name in (*benchmark.WRONG, "v, zero terminal SNR", "teacher", "reflow"))
