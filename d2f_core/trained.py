"""What a run trains: adapters beside a frozen network, or the weights of the network itself.

    TrainedAdapters    theta = the adapters' parameters; they are on the network's layers while it computes
    TrainedNetwork     theta = the network's own parameters

Both hold theta in a module, so that averages and states are copies of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import nn

from .adapter import Adapter, hooked


class Trained(Protocol):
    """What is trained: ``weights`` holds all of its parameters."""

    weights: nn.Module

    def named(self, weights: nn.Module) -> dict[str, Any]:
        """The weights, or a copy of them, by name."""

    def on(self, weights: nn.Module) -> AbstractContextManager[None]:
        """The network computing with the weights, or with a copy of them that has other values."""

    def check_gradients(self) -> None:
        """Raise ValueError if a part of it got no gradient; names the first."""


class TrainedAdapters:
    """Adapters on layers of a frozen network.

    Args:
        module: the network.
        adapters: path of a layer -> its adapter.
    """

    def __init__(self, module: nn.Module, adapters: Mapping[str, Adapter]) -> None:
        self.paths = list(adapters)
        self.weights: nn.Module = nn.ModuleList(adapters.values())
        self._layers = [module.get_submodule(path) for path in adapters]

    def named(self, weights: nn.Module) -> dict[str, Adapter]:
        """Path of a layer -> its adapter."""
        return dict(zip(self.paths, cast("Sequence[Adapter]", weights), strict=True))

    def on(self, weights: nn.Module) -> AbstractContextManager[None]:
        """The network with the adapters on."""
        return hooked(zip(self._layers, cast("Sequence[Adapter]", weights), strict=True))

    def check_gradients(self) -> None:
        """Raise ValueError that names a layer whose adapter got no gradient."""
        adapters = self.named(self.weights).items()
        without = [path for path, adapter in adapters if all(p.grad is None for p in adapter.parameters())]
        if without:
            raise ValueError(
                f"{len(without)} adapters got no gradient, the first at {without[0]}: these layers do not take part in "
                "the forward pass (quantised formats such as GGUF do their own); choose other targets, or a checkpoint "
                "in float16, bfloat16 or float32"
            )


class TrainedNetwork:
    """All parameters of a network that require gradients; they may be shards, of torch's ``fully_shard``.

    Args:
        module: the network.
    """

    def __init__(self, module: nn.Module) -> None:
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.names = list(trained)
        self.weights: nn.Module = nn.ParameterList(trained.values())

    def named(self, weights: nn.Module) -> dict[str, nn.Parameter]:
        """Name of a parameter in the network -> parameter."""
        return dict(zip(self.names, cast("Sequence[nn.Parameter]", weights), strict=True))

    def on(self, weights: nn.Module) -> AbstractContextManager[None]:
        """The network with these values in its parameters; its own are in ``weights`` meanwhile."""
        return nullcontext() if weights is self.weights else _exchanged(self.weights, weights)

    def check_gradients(self) -> None:
        """Raise ValueError that names a parameter that got no gradient."""
        without = [name for name, parameter in self.named(self.weights).items() if parameter.grad is None]
        if without:
            raise ValueError(
                f"{len(without)} weights got no gradient, the first is {without[0]}: they do not take part in the "
                "forward pass, so this network cannot be trained as a whole; train a LoRA"
            )


@contextmanager
def _exchanged(one: nn.Module, other: nn.Module) -> Iterator[None]:
    """The values of two modules exchanged, and back afterwards, bit for bit; one weight at a time is held twice."""
    _exchange(one, other)
    try:
        yield
    finally:
        _exchange(one, other)


@torch.no_grad()
def _exchange(one: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        value = ours.clone()
        ours.copy_(theirs)
        theirs.copy_(value)
