"""Native flow matching models: everything that samples takes them as they are."""

import pytest
import torch

KINDS = ("unet", "sd3", "auraflow", "flux")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def flow(flow_models, build, kind):
    return flow_models.make(kind, build)


@pytest.fixture
def texts(flow_models, kind):
    return flow_models.conditionings(kind)


@pytest.fixture
def empty(flow_models, kind):
    return {"samples": torch.zeros(2, flow_models.SHAPES[kind][0], 8, 8)}


def run(node, flow, texts, latent, solver="euler", grid=None, steps=4, denoise=1.0):
    """Diff2Flow KSampler at CFG 3 with seed 42."""
    grid = grid or {"grid": "uniform"}
    return node("D2FKSampler").execute(flow, 42, steps, 3.0, {"solver": solver}, grid, *texts, latent, denoise).result


def test_the_timestep_is_that_of_the_host(host, flow, flow_models, kind):
    alignment = host.alignment_of(flow)
    assert alignment.prediction == "flow" and alignment.schedule.multiplier == flow_models.SHAPES[kind][3]
    sampling, s = host.sampling_of(flow), torch.linspace(0.01, 1, 9)
    assert torch.allclose(alignment.timestep(1 - s), sampling.timestep(s), rtol=1e-5, atol=1e-5)


def test_samplers_of_the_pack_take_it_as_it_is(host, node, flow, texts, empty):
    """At the levels of the grid, Euler is the host's Euler."""
    ours, nfe = run(node, flow, texts, empty)
    import comfy.samplers

    euler = comfy.samplers.ksampler("euler")
    stock = host.sample(flow, empty, *texts, 3.0, euler, torch.linspace(1, 0, 5), 42)["samples"]
    assert nfe == 4 and torch.isfinite(stock).all() and stock.std() > 0.1
    assert (ours["samples"] - stock).abs().max() < 1e-5 * (stock.max() - stock.min())
