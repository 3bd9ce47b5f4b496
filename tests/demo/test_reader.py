"""The attribute reader is nearly always right on renders, so that its word on samples counts."""

import numpy as np
import pytest
import torch

from diff2flow_kit.demo.evaluate import frechet_distance
from diff2flow_kit.demo.reader import FEATURES, accuracy, features, read_attributes
from diff2flow_kit.demo.render import render_batch
from diff2flow_kit.demo.scenes import ATTRIBUTES, sample_scene


def fresh(held_out, seed=20260101, count=512, size=96):
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, held_out) for _ in range(count)]
    return render_batch(scenes, size)[0], [{n: getattr(s, n) for n in ATTRIBUTES} for s in scenes]


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [False, True])
def test_reads_512_fresh_renders(held_out):
    share = accuracy(*fresh(held_out))
    assert share["shape"] >= 0.99
    assert share["color"] >= 0.99
    for name in ("texture", "size", "position", "background"):
        assert share[name] >= 0.98


def test_reads_other_sizes():
    assert accuracy(*fresh(None, count=64, size=128))["shape"] >= 0.95


def test_an_answer_is_a_dict_of_known_words():
    answers = read_attributes(fresh(None, count=3)[0])
    assert len(answers) == 3
    assert all(answer[name] in ATTRIBUTES[name] for answer in answers for name in ATTRIBUTES)


@pytest.mark.slow
def test_frechet_distance_tells_sets_apart():
    images, _ = fresh(False, count=256)
    others, _ = fresh(False, seed=1, count=256)
    held_out, _ = fresh(True, count=256)
    assert features(images).shape == (256, FEATURES)
    assert frechet_distance(features(images), features(images)) == pytest.approx(0, abs=1e-4)
    near = frechet_distance(features(images), features(others))
    assert near < 0.3 * frechet_distance(features(images), features(held_out))


def test_frechet_distance_of_gaussians_with_diagonal_covariance():
    gen = torch.Generator().manual_seed(0)
    a = torch.randn(200_000, 2, generator=gen, dtype=torch.float64)
    b = 2 * torch.randn(200_000, 2, generator=gen, dtype=torch.float64) + 1
    assert frechet_distance(a, b) == pytest.approx(2 + 2 * (1 - 2) ** 2, rel=0.02)
