"""Diff2Flow on one page: convert a diffusion network to flow matching, train it, sample from it, reflow it.

To be read beside the paper: Schusterbauer, Gui, Fundel, Ommer, "Diff2Flow", CVPR 2025, arXiv 2506.02221. It needs
PyTorch only; tests hold it equal to the kit. x0 is the clean latent and eps the noise, (B, *), float32 or float64
(flow matching calls them x_1 and x_0); flow times t are float64 on the CPU, () or (B,).

    diffusion        x_dm = alpha x0 + sigma eps     alpha^2 + sigma^2 = 1     timestep = 0 (data) .. T - 1 (noise)
    flow matching    x_fm = t x0 + (1 - t) eps       d x_fm / d t = x0 - eps   t = 0 (noise) .. 1 (data)

    flow = Diff2Flow(network, noise_table(betas))                                   # convert; nothing is trained yet
    for loss in train(flow, optimizer, independent_pairs(data)): print(loss)        # fine-tune all weights, or a LoRA
    x0 = sample(flow, torch.randn(4, 4, 64, 64), torch.linspace(0, 1, 26))          # 25 steps
    for loss in train(student, optimizer, reflow_pairs(flow, noise, ts)): ...       # straighter paths: 1 to 4 steps
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

Batches = Iterable[tuple[Tensor, ...]]


def noise_table(betas: Tensor) -> Tensor:
    """sigma_ve = sigma / alpha of each timestep, (T,) -> (T,), with alpha^2 = prod (1 - beta)."""
    alpha2 = torch.cumprod(1 - betas.double(), dim=0)
    alpha2 = torch.where(alpha2 > 0, alpha2, 4.8973451890853435e-08)  # zero terminal SNR, with the number of ComfyUI
    return ((1 - alpha2) / alpha2).sqrt()


def per_item(weight: Tensor, x: Tensor) -> Tensor:
    """One weight per item, () or (B,), shaped to multiply x (B, *)."""
    return weight.to(x).reshape(-1, *(1,) * (x.ndim - 1))


class Diff2Flow:
    """The velocity of network(x_dm, timestep, *condition), which predicts "eps", "x0" or "v" = alpha eps - sigma x0."""

    def __init__(self, network: Callable[..., Tensor], sigma_ve: Tensor, prediction: str = "eps") -> None:
        assert prediction in ("eps", "v", "x0"), f"unknown prediction type {prediction!r}; use 'eps', 'v' or 'x0'"
        self.network, self.prediction = network, prediction
        self.log_sigma = sigma_ve.cpu().double().log()  # (T,), ascending
        self.t_max, self.t_min = torch.sigmoid(-self.log_sigma)[[0, -1]].tolist()  # Stable Diffusion: 0.9716, 0.0640

    # Rescale the timestep: x_dm / (alpha + sigma) is x_fm at t = alpha / (alpha + sigma) = 1 / (1 + sigma_ve).
    # Between two rows of the table log sigma_ve is linear in the timestep; beyond its ends the end row counts.
    def flow_time(self, timestep: Tensor) -> Tensor:
        """t of a fractional timestep, in [t_min, t_max]."""
        row = timestep.long().clamp(0, len(self.log_sigma) - 2)
        weight = (timestep.double() - row).clamp(0, 1)
        return torch.sigmoid(-torch.lerp(self.log_sigma[row], self.log_sigma[row + 1], weight))

    def timestep(self, t: Tensor) -> Tensor:
        """The fractional timestep of t, in [0, T - 1]; the inverse of ``flow_time``."""
        log_sigma = torch.log((1 - t) / t).clamp(self.log_sigma[0], self.log_sigma[-1])
        row = (torch.searchsorted(self.log_sigma, log_sigma, right=True) - 1).clamp(max=len(self.log_sigma) - 2)
        return row + (log_sigma - self.log_sigma[row]) / (self.log_sigma[row + 1] - self.log_sigma[row])

    # Align the interpolants: x_dm = (alpha + sigma) x_fm, and alpha + sigma = 1 / sqrt(t^2 + (1 - t)^2).
    def to_diffusion(self, x_fm: Tensor, t: Tensor) -> Tensor:
        return x_fm / per_item(torch.hypot(t, 1 - t), x_fm)

    def to_flow(self, x_dm: Tensor, t: Tensor) -> Tensor:
        return x_dm * per_item(torch.hypot(t, 1 - t), x_dm)

    # Derive the velocity x0 - eps from the network's output, on all of [0, 1].
    def x0_and_eps(self, output: Tensor, x_fm: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x0 and eps of x_dm = alpha x0 + sigma eps, with alpha and sigma of t; below t_min those of row T - 1."""
        x_dm, t = self.to_diffusion(x_fm, t), t.clamp(min=self.t_min)
        alpha, sigma = (per_item(weight / torch.hypot(t, 1 - t), x_fm) for weight in (t, 1 - t))
        if self.prediction == "eps":
            return (x_dm - sigma * output) / alpha, output
        if self.prediction == "v":
            return alpha * x_dm - sigma * output, sigma * x_dm + alpha * output
        # "x0": eps = (x_dm / alpha - x0) / sigma_ve has no limit at t = 1. Above t_max the divisor stays that of row 0,
        # and x0 = x_dm / alpha - sigma_ve eps goes from the output to x_fm.
        sigma_ve, divisor = sigma / alpha, (sigma / alpha).clamp(min=1 / self.t_max - 1)
        return torch.lerp(x_dm / alpha, output, sigma_ve / divisor), (x_dm / alpha - output) / divisor

    def velocity(self, x_fm: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """d x_fm / d t, (B, *): x0 - eps; below t_min with the eps that x_fm has then, (x_fm - t x0) / (1 - t)."""
        t = t.expand(len(x_fm))
        output = self.network(self.to_diffusion(x_fm, t), self.timestep(t).to(x_fm), *condition)
        x0, eps = self.x0_and_eps(output, x_fm, t)
        below = (x0 - x_fm) / per_item((1 - t).clamp(min=1 - self.t_min), x_fm)
        return torch.where(per_item(t, x_fm) < self.t_min, below, x0 - eps)

    def loss(self, x0: Tensor, eps: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """The flow matching loss, mean |velocity - (x0 - eps)|^2 over each item, (B,)."""
        velocity = self.velocity(per_item(t, x0) * x0 + per_item(1 - t, x0) * eps, t, *condition)
        return (velocity - (x0 - eps)).square().flatten(1).mean(1)


def train(flow: Diff2Flow, optimizer: torch.optim.Optimizer, pairs: Batches) -> Iterator[float]:
    """One optimizer step per batch of pairs (x0, eps, *condition), at t ~ U(0, 1); yields the losses."""
    for x0, eps, *condition in pairs:
        loss = flow.loss(x0, eps, torch.rand(len(x0), dtype=torch.float64), *condition).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


@torch.no_grad()
def sample(flow: Diff2Flow, x: Tensor, ts: Tensor, *condition: Tensor) -> Tensor:
    """Euler's method from x at ts[0] to ts[-1]; ts ascends from 0, pure noise, to 1, data."""
    for t, t_next in zip(ts.double(), ts.double()[1:]):
        x = x + float(t_next - t) * flow.velocity(x, t, *condition)
    return x


def independent_pairs(data: Batches) -> Batches:
    """Flow matching: each batch (x0, *condition) with noise of its own."""
    return ((x0, torch.randn_like(x0), *condition) for x0, *condition in data)


def reflow_pairs(teacher: Diff2Flow, noise: Batches, ts: Tensor) -> Batches:
    """Reflow (arXiv 2209.03003): each batch (eps, *condition) with the x0 to which the teacher's ODE takes it."""
    return ((sample(teacher, eps, ts, *condition), eps, *condition) for eps, *condition in noise)
