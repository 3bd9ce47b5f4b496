"""What a training plan needs of a network."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core import FlowAlignment


class NetworkToTrain(Protocol):
    """A network as the trainer calls it, with what a plan needs to know of it."""

    module: nn.Module
    alignment: FlowAlignment

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def dtype(self) -> torch.dtype:
        """Type that it computes in."""

    def __call__(self, network_input: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """The network's answer, (B, *)."""
