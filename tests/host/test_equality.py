"""Identity (b): at the same noise levels, Euler on the converted model is Euler on the diffusion model."""

import pytest
import torch

MODEL_TYPES = ["EPS", "V_PREDICTION"]


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / (a.max() - a.min()))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_euler_makes_the_same_latents(host, build, sample, table_levels, model_type):
    model = build(model_type)
    ve = table_levels(model)
    stock = sample(model, ve)
    assert stock.std() > 0.1
    assert relative_difference(stock, sample(host.convert(model), ve / (1 + ve))) < 1e-4


@pytest.mark.parametrize("scheduler", ["simple", "ddim_uniform", "beta", "sgm_uniform"])
def test_stock_schedulers_choose_the_same_levels(host, eps_model, scheduler):
    ve = host.stock_sigmas(eps_model, scheduler, 12)
    ours = host.stock_sigmas(host.convert(eps_model), scheduler, 12)
    assert torch.allclose(ours, ve / (1 + ve), atol=1e-6)
