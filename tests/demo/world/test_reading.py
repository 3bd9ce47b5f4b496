"""The reader of the second world: labels, losses, and how readings are compared with prompts."""

from dataclasses import replace

import pytest
import torch

RED_CUBE = {"shape": "cube", "color": "red", "texture": "plain"}
BLUE_CONE = {"shape": "cone", "color": "blue", "texture": "striped"}
REST = {"material": "matte", "size": "small"}
ROOM = {"floor": "gray", "wall": "blue", "style": "render"}


@pytest.fixture
def reading(demo):
    """Of solids as (words, x, z)."""
    module = demo("world.reader")
    return lambda *solids: module.Reading(tuple(module.Seen(w | REST, x, z) for w, x, z in solids), ROOM)


@pytest.fixture
def wanted(demo):
    return demo("world.scoring").Wanted((RED_CUBE, BLUE_CONE), "left of")


@pytest.mark.parametrize(
    "solids, right",
    [
        ([(RED_CUBE, -1, 4), (BLUE_CONE, 1, 4)], {"solids", "words", "number", "relation"}),
        ([(BLUE_CONE, 1, 4), (RED_CUBE, -1, 4)], {"solids", "words", "number", "relation"}),
        ([(RED_CUBE, 1, 4), (BLUE_CONE, -1, 4)], {"solids", "words", "number"}),
        ([(RED_CUBE, -1, 4), (BLUE_CONE, 1, 5)], {"solids", "words", "number"}),
        ([(RED_CUBE, -1, 4), (BLUE_CONE | {"texture": "plain"}, 1, 4)], {"solids", "number", "relation"}),
        ([(RED_CUBE | {"color": "blue"}, -1, 4), (BLUE_CONE | {"color": "red"}, 1, 4)], {"number", "relation"}),
        ([(RED_CUBE, -1, 4), (BLUE_CONE, 1, 4), (RED_CUBE, 0, 3)], {"solids", "words", "relation"}),
        ([(RED_CUBE, -1, 4)], set()),
        ([], set()),
    ],
)
def test_what_is_right_in_a_picture(demo, reading, wanted, solids, right):
    judged = demo("world.scoring").judged(wanted, reading(*solids))
    assert {name for name, yes in judged.items() if yes} == right


def test_shares_are_fractions_of_pictures(demo, reading, wanted):
    module = demo("world.scoring")
    readings = [reading((RED_CUBE, -1, 4), (BLUE_CONE, 1, 4)), reading((RED_CUBE, -1, 4)), reading(), reading()]
    assert module.shares([wanted] * 4, readings) == dict.fromkeys(module.NAMES, 0.25)
    assert module.share_showing(readings, "color", "red") == 0.5
    assert module.share_showing(readings, "style", "pencil") == 0


@pytest.mark.parametrize("x, z, relation", [(2, 4.2, "left of"), (-2, 3.8, "right of"), (2, 5, "in front of"),
                                           (-2, 3, "behind")])  # fmt: skip
def test_relations_follow_from_places(demo, x, z, relation):
    seen = demo("world.reader").Seen
    assert seen({}, 0.0, 4.0).relation_to(seen({}, x, z)) == relation


class Ideal(torch.nn.Module):
    """Answers the labels, as a perfectly trained reader would."""

    def __init__(self, demo, target):
        super().__init__()
        self.bells, self.names, self.target = demo("world.train_reader").bells, demo("world.reader"), target

    def forward(self, images):
        bell = torch.where(self.target["middle"][..., :1, None] > -1, self.bells(self.target["middle"], 32), 0.0)
        nearest = bell.argmax(1, keepdim=True)
        out = {"middle": torch.logit(bell.amax(1, keepdim=True), 1e-3)}
        place = [self.target["place"][..., i, None, None].expand_as(bell).gather(1, nearest) for i in (0, 1)]
        out["place"] = torch.cat(place, 1)
        for name, words in self.names.WORDS.items():
            word = self.target[name][..., None, None].expand(*bell.shape).gather(1, nearest)[:, 0]
            out[name] = torch.nn.functional.one_hot(word.clamp_min(0), len(words)).permute(0, 3, 1, 2).float()
        for name, words in self.names.ROOM.items():
            out[name] = torch.nn.functional.one_hot(self.target[name], len(words)).float()
        return out


def test_a_reader_that_answers_the_labels_reads_all_of_the_scene(demo, twelve):
    scenes, rendered = twelve
    target = demo("world.train_reader").labels(scenes, rendered.numbers)
    readings = demo("world.reader").read(rendered.images, Ideal(demo, target))
    scoring = demo("world.scoring")
    assert scoring.shares([scoring.wanted_of(scene) for scene in scenes], readings) == dict.fromkeys(scoring.NAMES, 1)
    assert all(reading.room["wall"] == scene.wall for scene, reading in zip(scenes, readings))


def test_the_ideal_answers_cost_less_than_others(demo, twelve):
    scenes, rendered = twelve
    module = demo("world.train_reader")
    target = module.labels(scenes, rendered.numbers)
    answers = Ideal(demo, target)(rendered.images)
    best = module.reading_loss(answers, target)
    for name in answers.keys() - {"style"}:  # the same in all of them
        assert module.reading_loss(answers | {name: answers[name].roll(1, 0)}, target) > best, name


def test_labels_of_the_mirror_image_are_the_mirrored_labels(demo, twelve):
    scenes, rendered = twelve
    module = demo("world.train_reader")
    mirrored = [demo("world.scenes").mirrored(scene) for scene in scenes]
    expected = module.labels(mirrored, rendered.numbers.flip(-1))
    found = module.mirrored_labels(module.labels(scenes, rendered.numbers), torch.ones(len(scenes), dtype=torch.bool))
    assert all(torch.allclose(found[name].float(), expected[name].float(), atol=1e-4) for name in expected)


def test_a_drawing_does_not_count_where_it_shows_nothing(demo, twelve):
    scenes, rendered = twelve
    drawn = demo("world.train_reader").labels([replace(s, style="pencil") for s in scenes], rendered.numbers)
    assert (drawn["color"] == -1).all() and (drawn["wall"] == -1).all() and (drawn["shape"][:, :2] >= 0).all()


def test_training_lowers_the_loss(demo, twelve):
    scenes, rendered = twelve
    module, state = demo("world.train_reader"), torch.get_rng_state()
    torch.manual_seed(0)
    reader = demo("world.reader").Reader()
    torch.set_rng_state(state)
    target, opt = module.labels(scenes, rendered.numbers), torch.optim.AdamW(reader.parameters(), 2e-3)
    losses = []
    for _ in range(8):
        loss = module.reading_loss(reader(rendered.images.permute(0, 3, 1, 2)), target)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_other_sizes_are_read_and_features_have_a_row_for_each_picture(demo):
    module = demo("world.reader")
    images, reader = torch.rand(3, 256, 256, 3, generator=torch.Generator().manual_seed(0)), module.Reader().eval()
    assert len(module.read(images, reader)) == 3
    assert module.features(images, reader).shape == (3, module.FEATURES)
