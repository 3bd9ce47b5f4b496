"""Lion, the optimizer whose steps are signs (Chen et al., arXiv 2302.06675, algorithm 2).

    p <- p - rate (sign(b1 m + (1 - b1) g) + decay p)        m <- b2 m + (1 - b2) g

One moment per value where Adam has two. Every value moves by the rate itself, so rates are 3 to 10 times smaller than
AdamW's and the decay as much larger.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.99)


class Lion(torch.optim.Optimizer):
    """See the module's head.

    Args:
        parameters: what is optimized.
        lr: learning rate.
        weight_decay: decoupled, times the learning rate.
        betas: b1 of the step and b2 of the moment.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = BETAS,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is ever given
        """Move all parameters that have a gradient."""
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            if given:
                moments = [self._moment(parameter) for parameter in given]
                gradients = [parameter.grad for parameter in given]
                _move(given, gradients, moments, group["lr"], group["weight_decay"], *group["betas"])

    def _moment(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
        return state["exp_avg"]


def _move(
    parameters: list[Tensor],
    gradients: list[Tensor],
    moments: list[Tensor],
    rate: float,
    decay: float,
    b1: float,
    b2: float,
) -> None:
    """One step for all parameters at once: an operation per list, not per parameter."""
    signs = torch._foreach_lerp(moments, gradients, 1 - b1)
    torch._foreach_sign_(signs)
    torch._foreach_mul_(parameters, 1 - rate * decay)
    torch._foreach_add_(parameters, signs, alpha=-rate)
    torch._foreach_lerp_(moments, gradients, 1 - b2)
