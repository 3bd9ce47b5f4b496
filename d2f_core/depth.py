"""Depth: the target that a model learns, and one answer out of several samples.

Metric depth d > 0 of one image, in any unit, with lo and hi the 1st and 99th percentile of log d over its valid pixels:

    target = 2 (log d - lo) / (hi - lo) - 1            -1 is near, +1 is far; outliers are clipped
    log d  = lo + (target + 1) / 2 (hi - lo)           the inverse; without lo and hi up to scale and shift of log d

A pixel is valid if its depth is finite and above 0, and the mask that comes with it says so. An image of one depth,
hi - lo < 1e-6, has the target 0 everywhere.

Samples p_k of one image agree up to scale and shift only. Each is aligned to their mean r by least squares,

    min sum (a_k p_k + b_k - r)^2        a_k = cov(p_k, r) / var(p_k)        b_k = mean(r) - a_k mean(p_k)

then the answer is their median at each pixel, and its uncertainty the median distance from it (Ke et al., Marigold,
arXiv 2312.02145, who look for all a_k and b_k at once by a numerical search).
"""

from typing import NamedTuple

import torch
from torch import Tensor

PERCENTILES = (1.0, 99.0)
FLAT = 1e-6  # of log depth: a span that is no more than the rounding of float32
_RESOLUTION = 1e-14  # of a variance beside the mean square, in numbers that once were float32


class DepthRange(NamedTuple):
    """Percentiles of log depth, an image: ``low`` and ``high``, (B,), float64."""

    low: Tensor
    high: Tensor


def valid_pixels(depth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Where depth is known, bool (B, H, W).

    Args:
        depth: metric depth, (B, H, W).
        mask: above 0.5 where the depth counts, (B, H, W) or (1, H, W); None for everywhere.

    Raises:
        ValueError: depth or mask has another shape.
    """
    if depth.ndim != 3:
        raise ValueError(f"depth must have the shape (B, H, W), got {tuple(depth.shape)}; take one channel of an image")
    valid = torch.isfinite(depth) & (depth > 0)
    if mask is None:
        return valid
    if mask.ndim != 3 or mask.shape[1:] != depth.shape[1:] or len(mask) not in (1, len(depth)):
        raise ValueError(
            f"the mask of valid pixels has the shape {tuple(mask.shape)}, but the depth {tuple(depth.shape)}; give one "
            "mask an image, or one for all, of the size of the depth"
        )
    return valid & (mask > 0.5)


def depth_range(depth: Tensor, valid: Tensor, percentiles: tuple[float, float] = PERCENTILES) -> DepthRange:
    """Percentiles of log depth over the valid pixels of each image.

    Args:
        depth: metric depth, (B, H, W).
        valid: bool, (B, H, W), as ``valid_pixels`` gives it.
        percentiles: low and high, 0 to 100.

    Raises:
        ValueError: percentiles that do not rise from 0 to 100, or an image without a valid pixel.
    """
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must rise within 0 to 100, got {low:g} and {high:g}; 1 and 99 are usual")
    _check_any(valid)
    sorted_logs = [one[chosen].double().log().sort().values for one, chosen in zip(depth, valid)]
    return DepthRange(*(torch.stack([_quantile(logs, q / 100) for logs in sorted_logs]) for q in (low, high)))


def depth_target(
    depth: Tensor,
    valid: Tensor,
    percentiles: tuple[float, float] = PERCENTILES,
    clip: bool = True,
    limits: DepthRange | None = None,
) -> Tensor:
    """Log depth scaled to [-1, 1] for each image; pixels that are not valid are far, +1.

    Args:
        depth: metric depth, (B, H, W).
        valid: bool, (B, H, W), as ``valid_pixels`` gives it.
        percentiles: of log depth, which become -1 and +1.
        clip: whether what lies beyond them is clipped.
        limits: range of each image, if it is known already; else it is found with ``percentiles``.

    Returns:
        (B, H, W) in float32, or float64 for depth in float64.

    Raises:
        ValueError: as ``depth_range``.
    """
    low, high = limits or depth_range(depth, valid, percentiles)
    span = high - low
    flat = span < FLAT
    logs = torch.where(valid, depth, 1.0).double().log()
    target = 2 * (logs - _each(low)) / _each(torch.where(flat, 1.0, span)) - 1
    target = torch.where(_each(flat), 0.0, target)
    target = torch.where(valid, target.clamp(-1, 1) if clip else target, 1.0)
    return target.to(torch.promote_types(depth.dtype, torch.float32))


def depth_from_target(target: Tensor, limits: DepthRange | None = None) -> Tensor:
    """The inverse of ``depth_target``.

    Args:
        target: (B, H, W), -1 near, +1 far.
        limits: range of each image; None takes 0 to 1, which gives log depth up to scale and shift.

    Returns:
        Depth (B, H, W), in the target's dtype; 1 to e without limits.
    """
    low, high = limits or (target.new_zeros(len(target)), target.new_ones(len(target)))
    low, high = low.double(), high.double()
    return torch.exp(_each(low) + (target.double() + 1) / 2 * _each(high - low)).to(target.dtype)


def align_to(prediction: Tensor, reference: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale and shift that bring each prediction nearest to its reference, by least squares.

    Args:
        prediction, reference: (B, H, W).
        valid: bool, (B, H, W): the pixels that count; None for all.

    Returns:
        scale and shift, (B,), float64. A prediction that is the same everywhere has the scale 1: any other with its
        shift fits as well.

    Raises:
        ValueError: an image without a valid pixel, or with a number at one that is not finite.
    """
    valid = torch.ones_like(prediction, dtype=torch.bool) if valid is None else valid
    _check_any(valid)
    for name, values in (("prediction", prediction), ("reference", reference)):
        _check_finite(name, values, valid)
    count = valid.flatten(1).sum(1)
    p, r = (torch.where(valid, values, 0.0).double().flatten(1) for values in (prediction, reference))
    p_mean, r_mean = p.sum(1) / count, r.sum(1) / count
    deviation = (p - p_mean[:, None]) * valid.flatten(1)
    variance = deviation.square().sum(1)
    constant = variance <= _RESOLUTION * p.square().sum(1)
    scale = (deviation * (r - r_mean[:, None])).sum(1) / torch.where(constant, 1.0, variance)
    scale = torch.where(constant, 1.0, scale)
    return scale, r_mean - scale * p_mean


def ensemble(samples: Tensor) -> tuple[Tensor, Tensor]:
    """One answer out of several samples of the same images.

    A sample that does not rise with the mean of all (it is the same everywhere, or turned around) keeps its scale and
    is only shifted.

    Args:
        samples: (K, B, H, W), each right up to a scale above 0 and a shift.

    Returns:
        Median of the aligned samples, and the median distance from it, both (B, H, W) in the dtype of the samples.

    Raises:
        ValueError: a number that is not finite.
    """
    reference = samples.double().mean(0)
    aligned = []
    for sample in samples:
        scale, _ = align_to(sample, reference)
        scale = torch.where(scale > 0, scale, 1.0)
        centered = sample.double() - _each(sample.double().mean((1, 2)))
        aligned.append(_each(scale) * centered + _each(reference.mean((1, 2))))
    stacked = torch.stack(aligned)
    middle = _median(stacked)
    spread = _median((stacked - middle).abs())
    return middle.to(samples.dtype), spread.to(samples.dtype)


def _check_any(valid: Tensor) -> None:
    """Raise ValueError if an image of ``valid``, (B, H, W), has no valid pixel."""
    for number in (~valid.flatten(1).any(1)).nonzero().flatten().tolist():
        raise ValueError(
            f"image {number + 1} of {len(valid)} has no valid pixel: depth must be finite and above 0 somewhere, where "
            "the mask, if there is one, is white"
        )


def _check_finite(name: str, values: Tensor, valid: Tensor) -> None:
    odd = (valid & ~torch.isfinite(values)).flatten(1).sum(1)
    for number in odd.nonzero().flatten().tolist():
        raise ValueError(
            f"the {name} of image {number + 1} of {len(values)} has {int(odd[number])} pixels that are not finite; "
            "mark them as not valid, or look for what went wrong before"
        )


def _quantile(ordered: Tensor, part: float) -> Tensor:
    """Quantile of sorted numbers, linear in between (``torch.quantile`` takes no more than 2^24)."""
    place = part * (len(ordered) - 1)
    low = int(place)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], place - low)


def _median(values: Tensor) -> Tensor:
    """Median over the first dimension; the mean of the middle two of an even number."""
    ordered, middle = values.sort(0).values, len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _each(values: Tensor) -> Tensor:
    """Numbers of each image, (B,), ready for (B, H, W)."""
    return values[:, None, None]
