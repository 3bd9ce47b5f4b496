"""Depth targets and ensembles: hand-computed values, inverses, and what degenerate images give."""

import math

import numpy
import pytest
import torch

from d2f_core import DepthRange, align_to, depth_from_target, depth_range, depth_target, ensemble, valid_pixels

EVERYTHING = (0.0, 100.0)


@pytest.fixture
def depth(generator):
    """Three images of metric depth, in metres, kilometres and in between."""
    scale = torch.tensor([1.0, 1000.0, 30.0])[:, None, None]
    return scale * (0.5 + 6 * torch.rand(3, 20, 30, generator=generator))


def everywhere(depth):
    return torch.ones_like(depth, dtype=torch.bool)


def test_a_target_by_hand():
    """log d = 0, 1, 2, 4: from -1 to 1 in steps of 1/2 a unit."""
    depth = torch.tensor([[[0.0, 1.0], [2.0, 4.0]]]).exp()
    target = depth_target(depth, everywhere(depth), EVERYTHING)
    assert torch.allclose(target, torch.tensor([[[-1.0, -0.5], [0.0, 1.0]]]), atol=1e-6)


def test_percentiles_are_numpys(depth):
    limits = depth_range(depth, everywhere(depth), (3.0, 88.5))
    for found, q in zip(limits, (3.0, 88.5)):
        assert found.dtype == torch.float64
        wanted = numpy.percentile(depth.double().log().flatten(1).numpy(), q, axis=1)
        assert numpy.allclose(found.numpy(), wanted, rtol=1e-12)


def test_percentiles_of_valid_pixels_only(depth):
    valid = everywhere(depth)
    valid[0, :, :15] = False
    limits = depth_range(depth, valid)
    alone = depth_range(depth[:1, :, 15:], valid[:1, :, 15:])
    assert limits.low[0] == alone.low[0] and limits.high[0] == alone.high[0]
    assert limits.low[1] == depth_range(depth, everywhere(depth)).low[1]


def test_two_in_a_hundred_pixels_are_clipped(depth):
    target = depth_target(depth, everywhere(depth))
    assert target.dtype == torch.float32 and target.min() == -1 and target.max() == 1
    assert ((target == -1) | (target == 1)).float().mean() == pytest.approx(0.02, abs=0.004)
    free = depth_target(depth, everywhere(depth), clip=False)
    assert free.min() < -1 and free.max() > 1
    assert torch.equal(free.clamp(-1, 1), target)


def test_the_inverse_is_exact(depth):
    double = depth.double()
    valid = everywhere(depth)
    limits = depth_range(double, valid)
    target = depth_target(double, valid, clip=False, limits=limits)
    assert torch.allclose(depth_from_target(target, limits), double, rtol=1e-12)
    assert torch.allclose(depth_from_target(target.float(), limits), depth, rtol=2e-6)


def test_without_its_range_a_target_gives_log_depth_up_to_scale_and_shift(depth):
    target = depth_target(depth.double(), everywhere(depth), clip=False)
    logs, found = depth.double().log().flatten(1), depth_from_target(target).log().flatten(1)
    for one, other in zip(logs, found):
        assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(depth_from_target(torch.tensor([[[-1.0, 1.0]]])), torch.tensor([1.0, math.e]))


def test_the_unit_of_depth_does_not_matter(depth):
    assert torch.allclose(
        depth_target(depth, everywhere(depth)), depth_target(depth * 39.37, everywhere(depth)), atol=1e-5
    )


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf, 0.0, -3.0])
def test_pixels_without_depth_are_far_and_change_nothing(depth, hole):
    holed = depth.clone()
    holed[:, 5:9, 3:] = hole
    valid = valid_pixels(holed)
    assert not valid[:, 5:9, 3:].any() and int(valid.sum()) == depth.numel() - 3 * 4 * 27
    target = depth_target(holed, valid)
    assert (target[:, 5:9, 3:] == 1).all()
    assert torch.equal(target, depth_target(torch.where(valid, depth, 1e9), valid))


def test_the_mask_is_heeded(depth):
    mask = torch.ones(1, 20, 30)
    mask[:, 10:] = 0.5
    assert torch.equal(valid_pixels(depth, mask), (mask > 0.5).expand(3, 20, 30))
    assert valid_pixels(depth, mask > 0.5).sum() == 3 * 300


@pytest.mark.parametrize("shape", [(20, 30), (2, 20, 30), (3, 10, 30), (3, 1, 20, 30)])
def test_a_mask_of_another_shape_is_refused(depth, shape):
    with pytest.raises(ValueError, match=r"mask of valid pixels has the shape .*of the size of the depth"):
        valid_pixels(depth, torch.ones(shape))


def test_depth_with_channels_is_refused():
    with pytest.raises(ValueError, match=r"shape \(B, H, W\), got \(1, 8, 8, 3\)"):
        valid_pixels(torch.ones(1, 8, 8, 3))


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_one_depth_everywhere_is_the_middle(noise):
    depth = 3.0 + noise * torch.arange(64.0).reshape(1, 8, 8).sin()
    limits = depth_range(depth, everywhere(depth))
    target = depth_target(depth, everywhere(depth))
    assert (target == 0).all()
    assert torch.allclose(depth_from_target(target, limits), torch.tensor(3.0))


def test_an_image_without_a_valid_pixel_is_named(depth):
    depth[1] = 0
    with pytest.raises(ValueError, match=r"image 2 of 3 has no valid pixel"):
        depth_target(depth, valid_pixels(depth))


@pytest.mark.parametrize("percentiles", [(99, 1), (5, 5), (-1, 99), (1, 101)])
def test_odd_percentiles_are_refused(depth, percentiles):
    with pytest.raises(ValueError, match="percentiles must rise within 0 to 100"):
        depth_range(depth, everywhere(depth), percentiles)


def test_more_pixels_than_torch_quantile_takes():
    depth = torch.linspace(1, 2, 2**24 + 2).exp().reshape(1, 2, -1)
    limits = depth_range(depth, everywhere(depth))
    assert float(limits.low) == pytest.approx(1.01, abs=1e-5) and float(limits.high) == pytest.approx(1.99, abs=1e-5)


def test_half_precision_gives_a_target_in_single(depth):
    target = depth_target(depth[:1].half(), everywhere(depth[:1]))
    assert target.dtype == torch.float32
    assert torch.allclose(target, depth_target(depth[:1], everywhere(depth[:1])), atol=2e-3)


def test_alignment_is_numpys_least_squares(generator):
    prediction, reference = torch.rand(4, 9, 11, generator=generator), torch.rand(4, 9, 11, generator=generator)
    valid = torch.rand(4, 9, 11, generator=generator) > 0.3
    scale, shift = align_to(prediction, reference, valid)
    for i in range(4):
        p, r = (values[i][valid[i]].double().numpy() for values in (prediction, reference))
        wanted = numpy.linalg.lstsq(numpy.stack([p, numpy.ones_like(p)], 1), r, rcond=None)[0]
        assert numpy.allclose([float(scale[i]), float(shift[i])], wanted, rtol=1e-10)


def test_alignment_in_double_far_from_zero(generator):
    """Moments in float32 would have lost all of this."""
    truth = torch.rand(1, 50, 50, generator=generator)
    prediction = (1000 + truth).float()
    scale, shift = align_to(prediction, 3 * prediction.double() - 7)
    assert float(scale) == pytest.approx(3, rel=1e-6) and float(shift) == pytest.approx(-7, abs=1e-3)


@pytest.mark.parametrize("rounding", [0.0, 6e-8])
def test_a_constant_is_aligned_to_the_mean(rounding):
    reference = torch.rand(2, 6, 6, dtype=torch.float64)
    constant = 0.7 + rounding * torch.randint(2, (2, 6, 6))
    scale, shift = align_to(constant, reference)
    assert (scale == 1).all()
    assert torch.allclose(0.7 + shift, reference.mean((1, 2)), atol=1e-6)


def test_alignment_refuses_numbers_that_are_not_finite_where_they_count():
    values = torch.rand(2, 3, 3)
    values[1, 0, 0] = math.nan
    valid = torch.isfinite(values)
    assert all(torch.isfinite(part).all() for part in align_to(values, values.nan_to_num(), valid))
    with pytest.raises(ValueError, match=r"prediction of image 2 of 2 has 1 pixels that are not finite"):
        align_to(values, torch.rand(2, 3, 3))
    with pytest.raises(ValueError, match=r"reference of image 2 of 2"):
        align_to(torch.rand(2, 3, 3), values)


@pytest.fixture
def truth(generator):
    return torch.rand(2, 16, 16, generator=generator, dtype=torch.float64)


def test_affine_samples_of_one_truth_agree(truth):
    samples = torch.stack([a * truth + b for a, b in ((1.0, 0.0), (0.5, 0.3), (3.0, -1.0))])
    median, spread = ensemble(samples)
    assert spread.max() < 1e-12
    assert torch.allclose(median, 1.5 * truth - 0.7 / 3)  # the mean of all


def test_an_ensemble_does_not_depend_on_the_order_or_on_the_other_images(truth, generator):
    samples = truth + 0.1 * torch.randn(5, 2, 16, 16, generator=generator, dtype=torch.float64)
    median, spread = ensemble(samples)
    other = ensemble(samples.flip(0))
    assert torch.allclose(median, other[0]) and torch.allclose(spread, other[1])
    alone = ensemble(samples[:, 1:])
    assert torch.allclose(median[1:], alone[0]) and torch.allclose(spread[1:], alone[1])


def test_an_ensemble_is_better_than_its_samples(truth, generator):
    noise = 0.2 * torch.randn(9, 2, 16, 16, generator=generator, dtype=torch.float64)
    samples = torch.linspace(0.5, 1.5, 9)[:, None, None, None] * (truth + noise)

    def miss(one):
        scale, shift = align_to(one, truth)
        return float((scale[:, None, None] * one + shift[:, None, None] - truth).square().mean().sqrt())

    assert miss(ensemble(samples)[0]) < 0.6 * min(miss(one) for one in samples)


def test_a_hole_in_one_sample_does_not_move_the_median(truth):
    samples = truth.repeat(5, 1, 1, 1)
    samples[2, :, 4:6, 4:6] = 40.0
    median, _ = ensemble(samples)
    scale, shift = align_to(median, truth)
    assert torch.allclose(scale[:, None, None] * median + shift[:, None, None], truth, atol=0.02)


def test_one_sample_is_itself(truth):
    median, spread = ensemble(truth[None].float())
    assert torch.allclose(median, truth.float(), atol=1e-6) and median.dtype == torch.float32
    assert (spread == 0).all()


def test_two_samples_meet_in_the_middle():
    """Both have the slope cov / var = 4 / 5 to their mean: 0.3, 1.1, 1.9, 2.7 and 1.1, 0.3, 2.7, 1.9."""
    samples = torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 3.0, 2.0]]).reshape(2, 1, 1, 4)
    median, spread = ensemble(samples)
    assert torch.allclose(median, torch.tensor([0.7, 0.7, 2.3, 2.3]))
    assert torch.allclose(spread, torch.tensor(0.4))


@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_constant_samples_stay_finite(truth, constant):
    flat = torch.full_like(truth, constant)
    median, spread = ensemble(torch.stack([flat, flat, flat]))
    assert torch.allclose(median, flat) and spread.max() < 1e-12
    mixed, _ = ensemble(torch.stack([truth, flat, truth]))
    scale, _ = align_to(mixed, truth)
    assert torch.isfinite(mixed).all() and (scale > 0).all()


def test_a_sample_turned_around_does_not_turn_the_rest(truth):
    median, _ = ensemble(torch.stack([truth, 1 - truth, truth, truth, truth]))
    scale, _ = align_to(median, truth)
    assert (scale > 0.5).all()
    # The mean of two rises by 1/4: one gets the slope 1/4, the other, -1/2, stays; half of the difference is 3/8.
    spread = ensemble(torch.stack([truth, 1 - truth / 2]))[1]
    assert torch.allclose(spread, 3 / 8 * (truth - truth.mean((1, 2), keepdim=True)).abs())


def test_samples_that_are_not_finite_are_refused(truth):
    truth[0, 0, 0] = math.inf
    with pytest.raises(ValueError, match="not finite"):
        ensemble(truth[None])


def test_marigolds_ensemble_finds_the_same(truth, generator):
    """An independent one, which searches for all scales and shifts at once."""
    marigold = pytest.importorskip("diffusers").MarigoldDepthPipeline
    pytest.importorskip("scipy")
    noise = 0.02 * torch.randn(5, 1, 16, 16, generator=generator)
    factors = torch.tensor([1.0, 0.6, 0.8, 0.9, 0.7])[:, None, None, None]
    samples = factors * (truth[:1].float() + noise).clamp(0, 1) + (1 - factors) / 2
    theirs, _ = marigold.ensemble_depth(samples, max_iter=50, tol=1e-6)
    ours, _ = ensemble(samples)
    scale, shift = align_to(ours, theirs[0])
    assert torch.allclose(scale[:, None, None] * ours + shift[:, None, None], theirs[0].double(), atol=0.005)


def test_limits_that_are_given_are_used(depth):
    limits = DepthRange(torch.zeros(3, dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64))
    target = depth_target(depth, everywhere(depth), clip=False, limits=limits)
    assert torch.allclose(target, depth.log() - 1, atol=1e-5)
