"""Demo Scenes: what is in the pictures, captions in their order, and depths."""

import pytest
import torch


@pytest.fixture(scope="module")
def render(node):
    def run(scenes, count=24, seed=0):
        output = node("D2FDemoScenes").execute(scenes, count, seed)
        return output.result

    return run


def read(images):
    from diff2flow_kit.demo.reader import read_attributes

    return read_attributes(images)


@pytest.mark.parametrize(
    ("scenes", "words"),
    [
        ("cyan", {"color": "cyan", "texture": "plain"}),
        ("striped", {"texture": "striped"}),
        ("cyan and striped", {"color": "cyan", "texture": "striped"}),
    ],
)
def test_all_scenes_show_the_new_words_and_differ_in_the_rest(scenes, words, render):
    images, captions, _ = render(scenes)
    found = read(images)
    assert all(one[name] == word for one in found for name, word in words.items())
    assert len({one["shape"] for one in found}) == 5
    named = [name for name in words.values() if name != "plain"]
    assert sum(all(word in caption for word in named) for caption in captions) > 0.8 * len(captions)


def test_known_words_hold_nothing_new(render):
    images, captions, _ = render("known words")
    assert not any("cyan" in caption or "striped" in caption for caption in captions)
    assert len({one["color"] for one in read(images)}) > 3


@pytest.mark.parametrize("count", [1, 3, 16])
def test_half_of_black_and_white_are_scenes(render, count):
    """The others hold one value, and their captions name it."""
    images, captions, depths = render("black and white", count)
    plain = render("known words", count)
    for number, (image, caption, depth) in enumerate(zip(images, captions, depths, strict=True)):
        if number % 4 < 2:
            assert torch.equal(image, plain[0][number]) and caption == plain[1][number]
        else:
            value, word = ((0.0, "black"), (1.0, "white"))[number % 4 - 2]
            assert caption == f"a {word} image" and bool((image == value).all()) and bool((depth == 1).all())


def test_images_and_captions_belong_together(render):
    images, captions, _ = render("known words", 48)
    named = [(one["shape"], caption) for one, caption in zip(read(images), captions) if one["shape"] == "cone"]
    assert named and sum("cone" in caption for _, caption in named) > 0.8 * len(named)


def test_a_seed_fixes_the_scenes(render):
    first, again, other = render("cyan", 4, 1), render("cyan", 4, 1), render("cyan", 4, 2)
    assert first[0].shape == (4, 96, 96, 3) and first[0].min() >= 0 and first[0].max() <= 1
    assert torch.equal(first[0], again[0]) and first[1] == again[1] and torch.equal(first[2], again[2])
    assert not torch.equal(first[0], other[0])


def test_captions_are_a_list_for_the_encoder(node):
    schema = node("D2FDemoScenes").define_schema()
    assert [output.is_output_list for output in schema.outputs] == [False, True, False]


def test_depths_are_metres_of_the_same_scenes(render):
    """The floor comes nearer downwards; the object, whose colour the picture shows, stands before the wall."""
    images, _, depths = render("cyan", 32)
    assert depths.shape == (32, 96, 96) and depths.dtype == torch.float32
    assert float(depths.min()) > 1.5 and float(depths.max()) < 8
    assert bool((depths[:, -1] < depths[:, 0]).all())
    cyan = (images[..., 1] > images[..., 0] + 0.3) & (images[..., 2] > images[..., 0] + 0.3)
    for depth, mask in zip(depths, cyan):
        assert 3 < float(depth[mask].median()) < 5 and float(depth[mask].median()) < float(depth[0].median()) - 1
