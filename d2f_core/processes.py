"""N processes that train as one: which batches of a step each of them takes, and how their gradients become one.

A step sums the gradients of ``accumulation`` batches; process r of N takes those with

    i mod N = r,  0 <= i < accumulation        gradient = sum_r sum_(i mod N = r) gradient_i

Every random number of batch i comes from (seed, i), so the batches are those of a single process. A sum of two numbers
commutes: with one batch per process, two processes give the gradient of one bit for bit, more of them up to rounding.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Processes(Protocol):
    """The processes of a run: number of this one, how many there are, and their sum."""

    rank: int
    count: int

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in its shape and dtype, the same bits in each of them."""


class OneProcess:
    """A run without others."""

    rank, count = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values


def share(accumulation: int, processes: Processes) -> range:
    """The batches of a step that this process takes.

    Raises:
        ValueError: there are fewer batches than processes.
    """
    if processes.count > accumulation:
        raise ValueError(
            f"{processes.count} processes train together, but a step has {accumulation} batches; give it at least one "
            f"per process (accumulation {processes.count}), or start fewer processes"
        )
    return range(processes.rank, accumulation, processes.count)


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter], loss: float, processes: Processes) -> float:
    """Replace the gradients of parameters by their sum over all processes; the sum of the loss."""
    if processes.count == 1:
        return loss
    flat = processes.sum(torch.cat([_gradient(parameter).flatten() for parameter in parameters]))
    for parameter, part in zip(parameters, flat.split([parameter.numel() for parameter in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()
    return float(processes.sum(torch.tensor([loss], dtype=torch.float64)))


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def agree(values: Iterable[bool], processes: Processes) -> list[bool]:
    """For each question whether any process says yes."""
    counts = torch.tensor([float(value) for value in values], dtype=torch.float64)
    return [bool(count) for count in processes.sum(counts).tolist()]
