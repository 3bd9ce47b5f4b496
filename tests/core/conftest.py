"""Schedules, and networks that are ideal for Gaussian data, written without the code under test."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from d2f_core import FlowAlignment, NoiseSchedule

STEPS = 1000


def sd_alphas_cumprod() -> Tensor:
    """Stable Diffusion's scaled linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def zero_terminal_alphas_cumprod() -> Tensor:
    """The same after the rescale of Lin et al. (arXiv 2305.08891, algorithm 1): it ends at zero."""
    root = sd_alphas_cumprod().sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def cosine_alphas_cumprod() -> Tensor:
    """Nichol and Dhariwal's cosine schedule (arXiv 2102.09672), betas capped at 0.999."""

    def level(i: float) -> float:
        return math.cos((i / STEPS + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level(i + 1) / level(i), 0.999) for i in range(STEPS)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), dim=0)


def not_zero(alphas_cumprod: Tensor) -> Tensor:
    """A terminal zero replaced by ComfyUI's value for it."""
    return torch.where(alphas_cumprod == 0, 4.8973451890853435e-08, alphas_cumprod)


ALPHAS_CUMPROD = {
    "sd": sd_alphas_cumprod,
    "zero_terminal": zero_terminal_alphas_cumprod,
    "cosine": cosine_alphas_cumprod,
}


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, std^2) in each dimension: all conditional expectations are known."""

    mean: float = 0.7
    std: float = 0.6

    def flow(self, x_fm: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """E[x0 | x_fm] and E[eps | x_fm] at flow times t, one per item."""
        t = t.reshape(-1, *(1,) * (x_fm.ndim - 1))
        return self._posterior(x_fm, t, 1 - t)

    def network(self, prediction: str, alphas_cumprod: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The ideal network: (x_dm, fractional timestep) -> eps, v or x0."""
        a = not_zero(alphas_cumprod)
        sigma_ve = ((1 - a) / a).sqrt()

        def network(x_dm: Tensor, timestep: Tensor) -> Tensor:
            position = timestep.clamp(0, STEPS - 1)
            low = position.floor().long().clamp(max=STEPS - 2)
            weight = position - low
            log_ratio = (1 - weight) * sigma_ve[low].log() + weight * sigma_ve[low + 1].log()
            angle = torch.atan(log_ratio.exp()).reshape(-1, *(1,) * (x_dm.ndim - 1))
            alpha, sigma = angle.cos(), angle.sin()
            x0, eps = self._posterior(x_dm, alpha, sigma)
            return {"eps": eps, "v": alpha * eps - sigma * x0, "x0": x0}[prediction]

        return network

    def path(self, x_start: Tensor, t_start: float, t: float) -> Tensor:
        """Where the exact flow takes x_start: the standardised position is constant."""

        def spread(t: float) -> float:
            return math.hypot(t * self.std, 1 - t)

        return t * self.mean + spread(t) / spread(t_start) * (x_start - t_start * self.mean)

    def _posterior(self, x: Tensor, data: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        residual = (x - data * self.mean) / (data**2 * self.std**2 + noise**2)
        return self.mean + data * self.std**2 * residual, noise * residual


@dataclass(frozen=True)
class Case:
    """A schedule, a prediction type, and the ideal network for both."""

    alignment: FlowAlignment
    alphas_cumprod: Tensor
    network: Callable[[Tensor, Tensor], Tensor]
    data: Gaussian

    @property
    def row_times(self) -> Tensor:
        """Flow time of each row of the table, alpha / (alpha + sigma)."""
        a = not_zero(self.alphas_cumprod)
        return a.sqrt() / (a.sqrt() + (1 - a).sqrt())

    def ask(self, x_fm: Tensor, t: Tensor) -> Tensor:
        """The network's output for a state: what a sampler does."""
        return self.network(self.alignment.to_diffusion(x_fm, t), self.alignment.timestep(t))


@pytest.fixture(params=list(ALPHAS_CUMPROD))
def alphas_cumprod(request: pytest.FixtureRequest) -> Tensor:
    return ALPHAS_CUMPROD[request.param]()


@pytest.fixture
def schedule(alphas_cumprod: Tensor) -> NoiseSchedule:
    return NoiseSchedule.from_alphas_cumprod(alphas_cumprod)


@pytest.fixture(params=["eps", "v", "x0"])
def case(request: pytest.FixtureRequest, alphas_cumprod: Tensor, schedule: NoiseSchedule) -> Case:
    data = Gaussian()
    network = data.network(request.param, alphas_cumprod)
    return Case(FlowAlignment(schedule, request.param), alphas_cumprod, network, data)


@pytest.fixture
def v_case(alphas_cumprod: Tensor, schedule: NoiseSchedule) -> Case:
    """Where one prediction type stands for all: they give the same velocity."""
    data = Gaussian()
    return Case(FlowAlignment(schedule, "v"), alphas_cumprod, data.network("v", alphas_cumprod), data)


@pytest.fixture
def sd() -> FlowAlignment:
    """Stable Diffusion's schedule with eps-prediction."""
    return FlowAlignment(NoiseSchedule.from_alphas_cumprod(sd_alphas_cumprod()), "eps")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
