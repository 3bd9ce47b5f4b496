"""Sampling paths of a MODEL in flow time, inside the host's guider: what its guidance needs, and its velocity.

    velocity = (x0 - x) / s        s = 1 - t

with x0 as the host's sampler predicts it, so that everything on the MODEL and on its conditionings acts.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import host

# The s at which the end of a path is evaluated: at s = 0 the quotient does not exist. Beyond the network's cleanest
# level its answer hardly changes, and rounding is multiplied by 1 / s.
END_SIGMA = 1e-3


def check_guidance(widget: str, cfg: float, has_negative: bool, model: Any) -> None:
    """Refuse guidance without a negative conditioning.

    Args:
        widget: name of the widget that holds ``cfg``.
        cfg: guidance scale; 1 disables guidance.
        has_negative: whether the input 'negative' is connected.
        model: MODEL, whose nodes may need a negative prompt at any scale.

    Raises:
        ValueError: guidance is enabled, but 'negative' is not connected.
    """
    if has_negative or not host.needs_negative(model, cfg):
        return
    if cfg == 1:
        raise ValueError(
            "a node on this model works with the negative prompt even where cfg is 1, but nothing is connected to "
            "'negative'; connect the conditioning of an empty prompt, or remove that node"
        )
    raise ValueError(
        f"{widget} is {cfg:g} but nothing is connected to 'negative'; connect the conditioning of an empty prompt, "
        f"or set {widget} to 1"
    )


@dataclass(frozen=True)
class GuidedVelocity:
    """``velocity(t, x)`` for ``d2f_core.solve``, (B, *), from the denoiser that ``host.in_guider`` hands out."""

    denoise: Any

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        s = max(1 - float(t), END_SIGMA)
        return (self.denoise(s, x) - x) / s
