"""Conditioning kwargs in sets of reflow pairs, which have ComfyUI's names and form.

    ours        c_crossattn    pooled (1, P)    sizes (1, 6) in pixels
    in a set    c_crossattn    y (1, P + 6 * 256) = [pooled, e(height), e(width), e(crop_h), ...]    for SDXL

    e(size) = [cos(size w_i), sin(size w_i)]    w_i = 10000^(-i / 128),  i = 0 .. 127

The slowest of the frequencies turns once in 58,000 pixels, so a size is read off its angle, as a whole number.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..network import SIZES, Condition

_HALF, _PERIOD = 128, 10_000
_WIDTH = 2 * _HALF * len(SIZES)


def to_set(condition: Condition) -> dict[str, Tensor]:
    """Our conditioning kwargs, tensors (1, ...) on the CPU, as sets hold them."""
    if "pooled" not in condition:
        return {"c_crossattn": condition["c_crossattn"]}
    y = torch.cat([condition["pooled"], _embedded(condition["sizes"])], dim=1)
    return {"c_crossattn": condition["c_crossattn"], "y": y}


def from_set(stored: Mapping[str, Tensor], name: str) -> Condition:
    """The conditioning kwargs of a set as ours.

    Raises:
        ValueError: they are of another kind of model; names the set.
    """
    if stored.keys() == {"c_crossattn"}:
        return {"c_crossattn": stored["c_crossattn"]}
    if stored.keys() == {"c_crossattn", "y"} and stored["y"].shape[1] > _WIDTH:
        pooled, embedded = stored["y"][:, :-_WIDTH], stored["y"][:, -_WIDTH:]
        sizes = _sizes(embedded)
        if torch.allclose(_embedded(sizes), embedded.float(), atol=1e-2):
            return {"c_crossattn": stored["c_crossattn"], "pooled": pooled, "sizes": sizes}
    raise ValueError(
        f"{name} holds the conditioning {', '.join(stored)}; training on pairs outside ComfyUI takes those of SD1.5, "
        "SD2.x and SDXL: use the node for others"
    )


def _frequencies() -> Tensor:
    return torch.exp(-math.log(_PERIOD) * torch.arange(_HALF, dtype=torch.float32) / _HALF)


def _embedded(sizes: Tensor) -> Tensor:
    """(1, 6) in pixels -> (1, 6 * 256)."""
    angles = sizes.float()[..., None] * _frequencies()
    return torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)


def _sizes(embedded: Tensor) -> Tensor:
    """The inverse of ``_embedded`` for whole numbers."""
    pairs = embedded.double().view(len(embedded), len(SIZES), 2, _HALF)
    angle = torch.atan2(pairs[:, :, 1, -1], pairs[:, :, 0, -1]) % (2 * math.pi)
    sizes = (angle / float(_frequencies()[-1])).round()
    return torch.where(sizes * float(_frequencies()[-1]) > 6.2, 0.0, sizes).float()
