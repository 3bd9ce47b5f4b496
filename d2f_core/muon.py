"""Muon, whose steps are matrices with singular values near 1 (Jordan, https://kellerjordan.github.io/posts/muon).

    m <- 0.95 m + 0.05 g        p <- (1 - rate decay) p - 0.2 sqrt(max(rows, columns)) rate NS5(0.05 g + 0.95 m)

NS5 brings the singular values of a matrix near 1 by five steps x <- a x + (b x x' + c (x x')^2) x in bfloat16. The
factor makes steps as large as AdamW's, so that its rates hold (Liu et al., arXiv 2502.16982). The kernel of a
convolution is the matrix of its outputs by all else; what is no matrix, as biases are, is left to AdamW. For matrices
this is torch's own Muon (torch 2.9) bit for bit, which takes nothing else.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
_LEAST_NORM = 1e-7
_BETAS, _EPS = (0.9, 0.999), 1e-8  # of AdamW


class Muon(torch.optim.Optimizer):
    """See the module's head.

    Args:
        parameters: what is optimized, matrices and others.
        lr: learning rate, one of AdamW.
        weight_decay: decoupled, times the learning rate.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is ever given
        """Move all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    move = self._move if parameter.ndim > 1 else self._adamw
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    move(parameter, parameter.grad, group["lr"])

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float) -> None:
        moment = self._state(parameter, "momentum_buffer")
        moment.lerp_(gradient, 1 - MOMENTUM)
        step = orthogonal(gradient.lerp(moment, MOMENTUM).flatten(1))
        scale = 0.2 * math.sqrt(max(step.shape))
        parameter.add_(step.view(parameter.shape), alpha=-rate * scale)

    def _adamw(self, parameter: Tensor, gradient: Tensor, rate: float) -> None:
        first, second = self._state(parameter, "exp_avg"), self._state(parameter, "exp_avg_sq")
        count = self.state[parameter]["step"] = self.state[parameter].get("step", 0) + 1
        first.lerp_(gradient, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        size = (second.sqrt() / math.sqrt(1 - _BETAS[1] ** count)).add_(_EPS)
        parameter.addcdiv_(first, size, value=-rate / (1 - _BETAS[0] ** count))

    def _state(self, parameter: Tensor, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        return state[name]


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the singular vectors of ``matrix`` (rows, columns) and singular values of about 1, bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=_LEAST_NORM)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
