"""N processes that train as one: which batches of a step each of them takes, and how their gradients become one.

A step sums the gradients of ``accumulation`` batches; process r of N takes those with

    i mod N = r,  0 <= i < accumulation        gradient = sum_r sum_(i mod N = r) gradient_i

Every random number of batch i comes from (seed, i), so the batches are those of a single process. A sum of two numbers
commutes: with one batch per process, two processes give the gradient of one bit for bit, more of them up to rounding.

Where the parameters are shards (torch's ``fully_shard``), the backward pass itself averages over the processes, and all
of them must compute together.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Processes(Protocol):
    """The processes of a run: number of this one, how many there are, whether parameters are shards, and their sum."""

    rank: int
    count: int
    sharded: bool

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in its shape and dtype, the same bits in each of them."""


class OneProcess:
    """A run without others."""

    rank, count, sharded = 0, 1, False

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values


def share(accumulation: int, processes: Processes) -> range:
    """The batches of a step that this process takes.

    Raises:
        ValueError: there are fewer batches than processes, or not the same number for each where parameters are shards.
    """
    if processes.count > accumulation:
        raise ValueError(
            f"{processes.count} processes train together, but a step has {accumulation} batches; give it at least one "
            f"per process (accumulation {processes.count}), or start fewer processes"
        )
    if processes.sharded and accumulation % processes.count:
        raise ValueError(
            f"a step has {accumulation} batches, which {processes.count} processes with sharded weights cannot share "
            f"evenly; set accumulation to a multiple of {processes.count}"
        )
    return range(processes.rank, accumulation, processes.count)


BUCKET = 1 << 24
"""Values that are sent at once, at least: 64 MiB of float32."""


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter], processes: Processes) -> None:
    """Replace the gradients of parameters by their sum over all processes."""
    if processes.count == 1:
        return
    if processes.sharded:
        for parameter in parameters:
            _gradient(parameter).mul_(processes.count)
    else:
        for bucket in _buckets(parameters):
            _sum_bucket(bucket, processes)


def sum_loss(loss: float, processes: Processes) -> float:
    """The sum of a loss over all processes."""
    return loss if processes.count == 1 else float(processes.sum(torch.tensor([loss], dtype=torch.float64)))


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters in order, ``BUCKET`` values or more at a time."""
    bucket, size = list[nn.Parameter](), 0
    for parameter in parameters:
        bucket.append(parameter)
        size += parameter.numel()
        if size >= BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def _sum_bucket(bucket: Sequence[nn.Parameter], processes: Processes) -> None:
    flat = processes.sum(torch.cat([_gradient(parameter).flatten() for parameter in bucket]))
    for parameter, part in zip(bucket, flat.split([parameter.numel() for parameter in bucket]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def agree(values: Iterable[bool], processes: Processes) -> list[bool]:
    """For each question whether any process says yes."""
    counts = torch.tensor([float(value) for value in values], dtype=torch.float64)
    return [bool(count) for count in processes.sum(counts).tolist()]
