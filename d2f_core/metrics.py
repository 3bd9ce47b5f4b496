"""How good a depth prediction is, up to what a single image cannot tell: scale and shift.

The affine-invariant protocol (Ranftl et al., MiDaS, arXiv 1907.01341). A prediction p stands for some f(d) of metric
depth d, up to scale and shift; f is log d, d or 1 / d. For each image, over its n valid pixels:

    scale, shift = argmin sum (scale p + shift - f(d))^2              d' = f^-1(scale p + shift)

    AbsRel = mean |d' - d| / d          RMSE = sqrt(mean (d' - d)^2)
    delta_i = share of pixels with max(d' / d, d / d') < 1.25^i       a d' that is not above 0 is a miss

Aligned 1 / d may reach 0, which is no depth; d' is there at most the largest valid d, as in that paper.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from .depth import align_to, valid_pixels

SPACES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"log": torch.log, "depth": torch.clone, "disparity": torch.reciprocal}
)
"""What a prediction stands for -> f(d)."""

_THRESHOLD = 1.25


class DepthScores(NamedTuple):
    """Scores of each image, (B,), float64; of ``mean()``, (1,).

    ``absrel`` and ``delta1`` to ``delta3`` have no unit, ``rmse`` has that of the depth. ``scale`` and ``shift`` are
    those of the alignment: a scale below 0 tells of a prediction with near and far changed.
    """

    absrel: Tensor
    delta1: Tensor
    delta2: Tensor
    delta3: Tensor
    rmse: Tensor
    scale: Tensor
    shift: Tensor

    def mean(self) -> "DepthScores":
        """Mean of each score over the images."""
        return DepthScores(*(score.mean(0, keepdim=True) for score in self))


def depth_scores(prediction: Tensor, depth: Tensor, valid: Tensor | None = None, space: str = "log") -> DepthScores:
    """Scores of predictions against metric depth.

    Args:
        prediction: of log depth, depth or disparity up to scale and shift, (B, H, W).
        depth: metric depth, (B, H, W).
        valid: above 0.5 where the depth counts, (B, H, W) or (1, H, W); None for everywhere. Pixels whose depth is not
            finite or not above 0 never count.
        space: what the prediction stands for, one of ``SPACES``.

    Raises:
        ValueError: an unknown space, shapes that differ, an image without a valid pixel, a prediction that is not
            finite at one.
    """
    if space not in SPACES:
        raise ValueError(f"unknown space {space!r}; allowed are {', '.join(map(repr, SPACES))}")
    if prediction.shape != depth.shape:
        raise ValueError(
            f"the prediction has the shape {tuple(prediction.shape)}, but the depth {tuple(depth.shape)}; give both "
            "the same number of images and the same size"
        )
    counts = valid_pixels(depth, valid)
    known = torch.where(counts, depth, 1.0).double()
    scale, shift = align_to(prediction, SPACES[space](known), counts)
    aligned = scale[:, None, None] * torch.where(counts, prediction, 0.0).double() + shift[:, None, None]
    images = zip(aligned, known, counts, scale, shift)
    rows = [(*_scores(found, d, chosen, space), a, b) for found, d, chosen, a, b in images]
    return DepthScores(*(torch.stack(column) for column in zip(*rows)))


def _scores(aligned: Tensor, depth: Tensor, counts: Tensor, space: str) -> tuple[Tensor, ...]:
    """Scores of one image, each a number."""
    d = depth[counts]
    found = _depth_of(aligned[counts], space, d.max())
    ratio = torch.where(found > 0, torch.maximum(found / d, d / found), torch.inf)
    deltas = [(ratio < _THRESHOLD**power).double().mean() for power in (1, 2, 3)]
    error = found - d
    return ((error / d).abs().mean(), *deltas, error.square().mean().sqrt())


def _depth_of(values: Tensor, space: str, largest: Tensor) -> Tensor:
    """f^-1: depth of log depth, depth or disparity."""
    if space == "log":
        return values.exp()
    return values if space == "depth" else 1 / values.clamp(min=1 / largest)
