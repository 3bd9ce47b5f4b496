"""The second demo world: what scenes say is what their pictures show."""

import importlib

import numpy as np
import pytest
import torch

COUNT = 120


@pytest.fixture(scope="module")
def world():
    names = ("scenes", "render", "solids", "captions")
    return {name: importlib.import_module(f"diff2flow_kit.demo.world.{name}") for name in names}


@pytest.fixture(scope="module")
def scenes(world):
    rng = np.random.default_rng(1)
    return [world["scenes"].sample_scene(rng, held_out=i % 3 == 0) for i in range(COUNT)]


@pytest.fixture(scope="module")
def rendered(world, scenes):
    return world["render"].render_batch(scenes, samples=1)


def test_a_seed_fixes_scenes_pictures_and_captions(world):
    def make():
        rng = np.random.default_rng(7)
        scene = world["scenes"].sample_scene(rng)
        return scene, world["captions"].caption(scene, rng), world["render"].render_batch([scene], 64)

    (one, text, pictures), (same, again, repeated) = make(), make()
    assert one == same and text == again
    assert all(torch.equal(a, b) for a, b in zip(pictures, repeated))


def test_training_never_sees_what_is_held_out(world):
    rng, module = np.random.default_rng(2), world["scenes"]
    assert not any(module.is_held_out(module.sample_scene(rng)) for _ in range(300))
    for name, (word,) in module.HELD_OUT.items():
        assert module.is_held_out(module.sample_scene(rng, held_out=True, **{name: word}))


def test_words_that_there_are_not_are_named(world):
    with pytest.raises(ValueError, match=r"color is 'mauve'; choose one of red, orange"):
        world["scenes"].sample_scene(np.random.default_rng(0), color="mauve")


def test_the_first_solid_stands_as_the_relation_says(scenes):
    for scene in scenes:
        first, second = scene.solids[:2]
        dx, dz = first.x - second.x, first.z - second.z
        signs = {"left of": dx < 0, "right of": dx > 0, "in front of": dz < 0, "behind": dz > 0}
        assert signs[scene.relation]
        sideways = scene.relation in ("left of", "right of")
        assert (abs(dx) if sideways else abs(dz)) > 0.9


def test_every_large_solid_is_larger_than_every_small_one(scenes):
    """Where there is little room they shrink, but the word stays readable."""
    radii = {
        size: [s.radius for scene in scenes for s in scene.solids if s.size == size] for size in ("small", "large")
    }
    assert min(radii["large"]) > 1.15 * max(radii["small"])


def test_every_solid_is_seen_whole_enough_and_inside_the_picture(scenes, rendered):
    for scene, numbers in zip(scenes, rendered.numbers):
        for slot, solid in enumerate(scene.solids, 1):
            mask = numbers == slot
            wide = mask.any(0).sum() / (128 * solid.radius / (0.44 * solid.z))
            assert mask.sum() > 90 and wide > 0.45, (scene, slot)
            assert not mask[:, [0, -1]].any() and not mask[[0, -1]].any()


def test_depth_is_metric(world, scenes, rendered):
    """Floor points lie in the plane y = 0, wall points at the wall, solids between camera and wall."""
    for scene, depth, numbers in zip(scenes[:20], rendered.depths, rendered.numbers):
        d = world["render"]._camera_rays(128, scene.camera_pitch).view(128, 128, 3)
        y = scene.camera_y + depth * d[..., 1]
        room = numbers == 0
        on_wall = (depth * d[..., 2] - scene.wall_z).abs() < 1e-4
        assert ((y.abs() < 1e-4) | on_wall)[room].all()
        assert (depth * d[..., 2] < scene.wall_z)[~room].all() and depth.min() > 1.5


@pytest.mark.parametrize("shape", ["sphere", "egg", "dome", "cube", "cone", "cylinder", "ring", "pyramid", "star"])
def test_solids_lie_inside_their_ball_and_on_the_floor(world, shape):
    """Rays from all around, all hits: what a ray is not tested for outside of the ball, it cannot miss."""
    generator = torch.Generator().manual_seed(3)
    o = 6 * torch.nn.functional.normalize(torch.randn(20000, 3, generator=generator), dim=-1)
    target = 2.2 * torch.rand(20000, 3, generator=generator) - torch.tensor([1.1, 0.0, 1.1])
    d = target - o
    s, normal = world["solids"].nearest(world["solids"].SOLIDS[shape](o, d))
    hit = torch.isfinite(s)
    point = (o + s[:, None] * d)[hit]
    height, radius = world["solids"].BALL
    assert hit.float().mean() > 0.08
    assert (point - torch.tensor([0.0, height, 0.0])).norm(dim=-1).max() < radius
    assert point[:, 1].min() > -1e-3
    upward = o[hit][:, 1] > 2.5  # from below a solid is open, as the floor is there
    assert ((normal[hit] * d[hit]).sum(-1) < 1e-4)[upward].float().mean() > 0.99


def test_captions_name_every_solid_and_the_relation_both_ways(world, scenes):
    rng, module = np.random.default_rng(4), world["captions"]
    for scene in scenes:
        text, plain = module.caption(scene, rng), module.plain_caption(scene)
        for solid in scene.solids:
            assert any(word in text for word in module.SYNONYMS.get(solid.shape, (solid.shape,)))
            assert f"{solid.color} {solid.shape}" in plain
        assert scene.relation in plain and ("pencil" in plain) == (scene.style == "pencil")
    turned = [module.caption(scenes[0], rng) for _ in range(60)]
    assert any(world["scenes"].OPPOSITE[scenes[0].relation] in text for text in turned)


def test_styles_and_textures_differ_in_the_picture(world, scenes):
    module = world["scenes"]
    scene = scenes[1]
    plain, drawn = (world["render"].render_batch([module.restyled(scene, style)]) for style in module.STYLES)
    assert torch.equal(plain.depths, drawn.depths) and (plain.images - drawn.images).abs().mean() > 0.1
    assert drawn.images.std(-1).max() < 0.05  # a drawing has no colours


def test_the_mirrored_scene_is_what_a_mirror_shows(world, scenes, rendered):
    """Corners of pixels apart, which may fall on either side."""
    mirrored = [world["scenes"].mirrored(scene) for scene in scenes[:20]]
    shown = world["render"].render_batch(mirrored, samples=1)
    assert (shown.numbers.flip(-1) == rendered.numbers[:20]).float().mean() > 0.999
    assert ((shown.depths.flip(-1) - rendered.depths[:20]).abs() < 1e-3).float().mean() > 0.999
    opposite = {"left of": "right of", "right of": "left of"}
    assert [a.relation for a in mirrored] == [opposite.get(b.relation, b.relation) for b in scenes[:20]]
