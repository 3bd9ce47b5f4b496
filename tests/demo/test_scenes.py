"""Scenes, captions and the ray caster: seeds, held-out combinations, depth in closed form."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from diff2flow_kit.demo.captions import VOCABULARY, caption, plain_caption
from diff2flow_kit.demo.render import HALF_FIELD, render, render_batch
from diff2flow_kit.demo.scenes import (
    ATTRIBUTES,
    HELD_OUT_COLORS,
    HELD_OUT_PAIRS,
    HELD_OUT_TEXTURES,
    SHAPES,
    make_scene,
    sample_scene,
)


def many(seed, count, held_out=False):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, held_out) for _ in range(count)]


def test_a_seed_fixes_scene_image_and_caption():
    first, second = many(3, 8), many(3, 8)
    assert first == second
    assert torch.equal(render_batch(first)[0], render_batch(second)[0])
    captions = [[caption(s, np.random.default_rng(5)) for s in scenes] for scenes in (first, second)]
    assert captions[0] == captions[1]
    assert first != many(4, 8)


def test_global_random_state_is_left_alone():
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    render_batch(many(0, 4))
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_training_never_draws_a_held_out_combination():
    for scene in many(0, 3000):
        assert (scene.color, scene.shape) not in HELD_OUT_PAIRS
        assert scene.color not in HELD_OUT_COLORS
        assert scene.texture not in HELD_OUT_TEXTURES


def test_held_out_scenes_are_all_held_out():
    for scene in many(0, 500, held_out=True):
        assert (
            (scene.color, scene.shape) in HELD_OUT_PAIRS
            or scene.color in HELD_OUT_COLORS
            or scene.texture in HELD_OUT_TEXTURES
        )


def test_every_training_word_is_drawn():
    drawn = {name: {getattr(s, name) for s in many(1, 1000)} for name in ATTRIBUTES}
    assert drawn["color"] == set(ATTRIBUTES["color"]) - set(HELD_OUT_COLORS)
    assert drawn["texture"] == {"plain"}
    for name in ("shape", "size", "position", "background"):
        assert drawn[name] == set(ATTRIBUTES[name])


def test_an_unknown_word_is_refused_by_name():
    with pytest.raises(ValueError, match=r"shape is 'torus'.*sphere"):
        make_scene(np.random.default_rng(0), "torus", "red")


@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_in_range_and_depth_is_finite(shape):
    rng = np.random.default_rng(7)
    image, depth = render(make_scene(rng, shape, "cyan", "striped", "large", "left", "black"), size=64)
    assert image.shape == (64, 64, 3) and image.dtype == np.float32
    assert depth.shape == (64, 64) and depth.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1
    assert np.isfinite(depth).all() and depth.min() > 1


def straight(shape, **changes):
    """A scene that is easy to compute by hand: the camera looks along z, the solid is not turned."""
    scene = make_scene(np.random.default_rng(0), shape, "red")
    solid = {"x": 0.0, "z": 4.0, "radius": 1.0, "yaw": 0.0}
    view = {"camera_pitch": 0.0, "camera_y": 1.0, "wall_z": 6.0}
    return replace(scene, **{**solid, **view, **changes})


def test_sphere_depth_at_the_centre():
    # An odd size has a pixel on the axis: the front of a unit sphere around (0, 1, 4) is at z = 3.
    assert render(straight("sphere"), size=33)[1][16, 16] == pytest.approx(3.0, abs=1e-5)


def test_sphere_depth_off_the_centre():
    _, depth = render(straight("sphere"), size=33)
    u = (20 + 0.5) / 33 * 2 - 1
    u *= HALF_FIELD  # |z (u, 0, 1) - (0, 0, 4)| = 1
    exact = (4 - math.sqrt(16 - 15 * (1 + u * u))) / (1 + u * u)
    assert depth[16, 20] == pytest.approx(exact, abs=1e-5)


def test_cube_face_is_flat():
    _, depth = render(straight("cube"), size=33)
    assert depth[16, 12:21] == pytest.approx(4 - 0.82, abs=1e-5)


def test_ring_shows_the_wall_through_its_hole():
    _, depth = render(straight("ring"), size=33)
    assert depth[16, 16] == pytest.approx(6.0, abs=1e-5)


def test_floor_and_wall_depth():
    _, depth = render(straight("sphere", x=50.0), size=64)
    v = -((63 + 0.5) / 64 * 2 - 1) * HALF_FIELD
    assert depth[63] == pytest.approx(-1 / v, rel=1e-5)
    assert depth[0] == pytest.approx(6.0, abs=1e-5)


def test_cone_and_cylinder_front():
    # Horizontal ray at y = 1 on the axis: the cone's radius there is 1 - 1 / 2.05.
    assert render(straight("cone"), size=33)[1][16, 16] == pytest.approx(4 - (1 - 1 / 2.05), abs=1e-4)
    assert render(straight("cylinder"), size=33)[1][16, 16] == pytest.approx(4 - 0.78, abs=1e-4)


def test_captions_use_the_vocabulary_only():
    rng = np.random.default_rng(0)
    for scene in many(2, 300, held_out=None):
        for text in (caption(scene, rng), plain_caption(scene)):
            assert set(text.replace(",", " ").split()) <= set(VOCABULARY)


def test_a_plain_caption_names_everything():
    scene = make_scene(np.random.default_rng(0), "sphere", "red", "plain", "large", "left", "blue")
    assert plain_caption(scene) == "a large red sphere on the left, blue background"
