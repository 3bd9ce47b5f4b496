"""Affine-invariant depth metrics: hand-computed cases, other libraries' values, invariances."""

import math

import numpy
import pytest
import torch

from d2f_core import SPACES, align_to, depth_scores

FORMS = {"log": numpy.log, "depth": lambda d: d, "disparity": lambda d: 1 / d}


@pytest.fixture
def depth(generator):
    return 1 + 5 * torch.rand(3, 12, 17, generator=generator, dtype=torch.float64)


@pytest.fixture
def valid(generator):
    return torch.rand(3, 12, 17, generator=generator) > 0.2


@pytest.fixture
def guess(depth, generator):
    """A prediction in each space that is not exact."""
    noise = 0.2 * torch.randn(depth.shape, generator=generator, dtype=torch.float64)
    return {space: form(depth) * (1 + noise) + 0.1 for space, form in SPACES.items()}


@pytest.mark.parametrize("space", list(SPACES))
def test_a_perfect_prediction(depth, space):
    scores = depth_scores(SPACES[space](depth) * 3.0 - 40.0, depth, space=space)
    assert scores.absrel.max() < 1e-9 and scores.rmse.max() < 1e-8
    assert (scores.delta1 == 1).all() and (scores.delta3 == 1).all()
    assert torch.allclose(scores.scale, torch.tensor(1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("space", list(SPACES))
def test_scale_and_shift_do_not_matter(depth, valid, guess, space):
    plain = depth_scores(guess[space], depth, valid, space)
    for scale, shift in ((7.0, -3.0), (1e-3, 2.0), (-2.0, 1.0)):
        moved = depth_scores(scale * guess[space] + shift, depth, valid, space)
        assert all(torch.allclose(one, other, rtol=1e-8) for one, other in zip(plain[:5], moved[:5]))
    assert 0.02 < plain.absrel.max() < 0.5


def test_by_hand_in_depth():
    """p = 0, 1, 2 against d = 1, 3, 2: the line 3/2 + p/2 misses by +1/2, -1, +1/2."""
    scores = depth_scores(torch.tensor([[[0.0, 1.0, 2.0]]]), torch.tensor([[[1.0, 3.0, 2.0]]]), space="depth")
    assert float(scores.absrel) == pytest.approx((0.5 / 1 + 1 / 3 + 0.5 / 2) / 3)
    assert float(scores.rmse) == pytest.approx(math.sqrt((0.25 + 1 + 0.25) / 3))
    # d' = 1.5, 2, 2.5: ratios 1.5, 1.5, 1.25, of which 1.25 is not below 1.25
    assert [float(delta) for delta in scores[1:4]] == pytest.approx([0, 2 / 6 + 2 / 3, 1])
    assert float(scores.scale) == pytest.approx(0.5) and float(scores.shift) == pytest.approx(1.5)


def test_by_hand_in_log():
    """log d = 0, 2, 1 and p = 0, 1, 2: the line 1/2 + p/2 gives log d' = 1/2, 1, 3/2."""
    depth = torch.tensor([[[0.0, 2.0, 1.0]]], dtype=torch.float64).exp()
    scores = depth_scores(torch.tensor([[[0.0, 1.0, 2.0]]]), depth)
    half, whole = math.exp(0.5), math.exp(1)
    assert float(scores.absrel) == pytest.approx(((half - 1) + (1 - 1 / whole) + (half - 1)) / 3)
    # ratios e^(1/2) = 1.65, e = 2.72, e^(1/2); 1.25^3 = 1.95
    assert [float(delta) for delta in scores[1:4]] == pytest.approx([0, 0, 2 / 3])


def test_by_hand_in_disparity():
    """1/d = 1, 1/3, 1/2 and p = 2, 1, 0: the line 13/36 + p/4 gives 1/d' = 31/36, 22/36, 13/36, but 1/3 at least."""
    scores = depth_scores(torch.tensor([[[2.0, 1.0, 0.0]]]), torch.tensor([[[1.0, 3.0, 2.0]]]), space="disparity")
    found = [36 / 31, 36 / 22, 36 / 13]
    assert float(scores.absrel) == pytest.approx(sum(abs(f - d) / d for f, d in zip(found, (1, 3, 2))) / 3)


def test_disparity_goes_to_the_farthest_depth_at_most():
    """One near pixel among far ones pulls the line below 0 for the outlier."""
    depth = torch.tensor([[[1.0, 10.0, 10.0, 10.0]]])
    scores = depth_scores(torch.tensor([[[1.0, 0.0, 0.1, -5.0]]]), depth, space="disparity")
    assert all(torch.isfinite(score).all() for score in scores)


def test_a_depth_below_zero_is_a_miss():
    """The fit -0.4, 1.2, 2.8, 4.4 of p = 0, 1, 2, 3 to d = 1, 0.1, 0.9, 6 begins below 0."""
    scores = depth_scores(
        torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]),
        torch.tensor([[[1.0, 0.1, 0.9, 6.0]]], dtype=torch.float64),
        space="depth",
    )
    assert float(scores.shift) < 0
    assert float(scores.delta3) == pytest.approx(0.25)  # 6 / 4.37
    assert math.isfinite(float(scores.absrel))


@pytest.mark.parametrize("space", list(SPACES))
def test_numpy_gives_the_same(depth, valid, guess, space):
    scores = depth_scores(guess[space], depth, valid, space)
    for i in range(len(depth)):
        p, d = (values[i][valid[i]].numpy() for values in (guess[space], depth))
        ones = numpy.ones_like(p)
        (scale, shift), *_ = numpy.linalg.lstsq(numpy.stack([p, ones], 1), FORMS[space](d), rcond=None)
        found = scale * p + shift
        found = {"log": numpy.exp(found), "depth": found, "disparity": 1 / numpy.maximum(found, 1 / d.max())}[space]
        ratio = numpy.maximum(found / d, d / found)
        wanted = [(abs(found - d) / d).mean(), *[(ratio < 1.25**k).mean() for k in (1, 2, 3)]]
        wanted += [numpy.sqrt(((found - d) ** 2).mean()), scale, shift]
        assert [float(score[i]) for score in scores] == pytest.approx(wanted, rel=1e-9)


def test_scipy_gives_the_same_line(depth, valid, guess):
    stats = pytest.importorskip("scipy.stats")
    scale, shift = align_to(guess["depth"], depth, valid)
    for i in range(len(depth)):
        line = stats.linregress(guess["depth"][i][valid[i]].numpy(), depth[i][valid[i]].numpy())
        assert (float(scale[i]), float(shift[i])) == pytest.approx((line.slope, line.intercept), rel=1e-9)


@pytest.mark.parametrize("space", list(SPACES))
def test_masked_pixels_have_no_say(depth, valid, guess, space):
    plain = depth_scores(guess[space], depth, valid, space)
    prediction, truth = guess[space].clone(), depth.clone()
    prediction[~valid] = math.nan
    truth[~valid] = 1e6
    assert all(torch.equal(one, other) for one, other in zip(plain, depth_scores(prediction, truth, valid, space)))
    assert not torch.equal(plain.absrel, depth_scores(guess[space], depth, space=space).absrel)


def test_pixels_without_depth_do_not_count(depth, guess):
    holed = depth.clone()
    holed[:, 0], holed[:, 1], holed[:, 2] = 0, math.nan, math.inf
    scores = depth_scores(guess["log"], holed)
    alone = depth_scores(guess["log"][:, 3:], depth[:, 3:])
    assert all(torch.allclose(one, other, rtol=1e-10) for one, other in zip(scores, alone))


def test_images_are_scored_one_by_one(depth, guess):
    scores = depth_scores(guess["log"], depth)
    for i in range(3):
        alone = depth_scores(guess["log"][i : i + 1], depth[i : i + 1])
        assert all(torch.allclose(one[i : i + 1], other) for one, other in zip(scores, alone))
    mean = scores.mean()
    assert float(mean.absrel) == pytest.approx(float(scores.absrel.mean())) and mean.delta1.shape == (1,)


def test_a_constant_prediction_is_the_geometric_mean(depth):
    """In logs; the least-squares constant is their mean."""
    scores = depth_scores(torch.full_like(depth, 0.4).float(), depth)
    middle = depth.log().mean((1, 2), keepdim=True).exp()
    assert torch.allclose(scores.absrel, ((middle - depth).abs() / depth).mean((1, 2)), atol=1e-7)


def test_an_inverted_prediction_shows_in_the_scale(depth):
    assert (depth_scores(-depth.log(), depth).scale < 0).all()


def test_one_valid_pixel_is_met_exactly(depth):
    valid = torch.zeros_like(depth)
    valid[:, 2, 3] = 1
    scores = depth_scores(torch.rand_like(depth), depth, valid)
    assert scores.absrel.max() < 1e-12


def test_what_is_refused(depth, guess):
    with pytest.raises(ValueError, match="unknown space 'metric'; allowed are 'log', 'depth', 'disparity'"):
        depth_scores(depth, depth, space="metric")
    with pytest.raises(ValueError, match=r"prediction has the shape \(2, 12, 17\), but the depth \(3, 12, 17\)"):
        depth_scores(depth[:2], depth)
    with pytest.raises(ValueError, match="image 1 of 3 has no valid pixel"):
        depth_scores(guess["log"], depth, torch.zeros_like(depth))
    guess["log"][2, 0, 0] = math.inf
    with pytest.raises(ValueError, match="prediction of image 3 of 3 has 1 pixels that are not finite"):
        depth_scores(guess["log"], depth)
