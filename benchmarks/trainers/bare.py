"""The yardstick: the loop that one would write in plain PyTorch for one model, with nothing around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .task import Task


class Lora(nn.Module):
    """Added to a layer's output as a forward hook."""

    def __init__(self, layer: Any, rank: int) -> None:
        super().__init__()
        weight = layer.weight
        self.down = nn.Parameter(torch.randn(rank, *weight.shape[1:]) / weight[0].numel() ** 0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, *(1,) * (weight.ndim - 2)))
        self.conv = {"stride": layer.stride, "padding": layer.padding} if weight.ndim == 4 else None

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if self.conv is None:
            return output + functional.linear(functional.linear(x, down), up)
        return output + functional.conv2d(functional.conv2d(x, down, **self.conv), up)


class Bare:
    """Noise, timestep, eps loss, backward, AdamW; all linear and convolution layers."""

    fused = False

    def __init__(self, task: Task) -> None:
        model = task.load()
        device = model.load_device
        self.network = model.model.diffusion_model.to(device).requires_grad_(False)
        layers = [layer for layer in self.network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
        self.loras = nn.ModuleList(Lora(layer, task.rank) for layer in layers).to(device)
        for layer, lora in zip(layers, self.loras):
            layer.register_forward_hook(lora)
        self.optimizer = torch.optim.AdamW(self.loras.parameters(), lr=task.rate, fused=self.fused)
        self.alphas_cumprod = 1 / (1 + model.model.model_sampling.sigmas.to(device) ** 2)
        self.dtype = next(self.network.parameters()).dtype
        self.latents = task.latents().to(device)
        self.conditions = {name: value.to(device, self.dtype) for name, value in task.conditions(model).items()}
        self.batch = task.batch
        self.settings = f"{len(layers)} layers" + self.fused * ", fused AdamW"

    def train(self, steps: int, objective: str) -> None:
        for _ in range(steps):
            items = torch.randperm(len(self.latents))[: self.batch]
            x0, condition = self.latents[items], {name: value[items] for name, value in self.conditions.items()}
            eps = torch.randn_like(x0)
            timestep = torch.randint(len(self.alphas_cumprod), (len(x0),), device=x0.device)
            a = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
            x = a.sqrt() * x0 + (1 - a).sqrt() * eps
            output = self.network(x.to(self.dtype), timestep.float(), **condition)
            loss = functional.mse_loss(output.float(), eps)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            loss.item()  # to be shown


class BareFused(Bare):
    """The same with AdamW as one kernel, which has to be asked for."""

    fused = True
