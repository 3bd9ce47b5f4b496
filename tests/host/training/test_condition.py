"""Image conditions in training: each item sees its own, a dropped caption keeps it, and what does not fit is named."""

import re

import pytest
import torch

NULL = [[[torch.zeros(1, 7, 16), {}]]]


@pytest.fixture(scope="module")
def seen():
    """Image conditions of the five items."""
    return torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(8))


@pytest.fixture(scope="module")
def captions():
    """Five CONDITIONINGs."""
    generator = torch.Generator().manual_seed(6)
    return [[[torch.randn(1, 7, 16, generator=generator), {}]] for _ in range(5)]


@pytest.fixture
def wide(build, host):
    """`wide()` -> a MODEL that takes an image condition."""
    return lambda: host.widen(build())


@pytest.fixture
def items(part, host, wide, latents, captions, seen):
    """`items(...)` -> the training set of a network that takes image conditions."""
    with host.training(wide()) as network:

        def make(latents=latents, positive=captions, condition=seen, negative=None):
            given = [
                [{"samples": one} for one in (part if isinstance(part, list) else [part])]
                for part in (latents, condition)
            ]
            return part("training.latent_items").LatentItems(network, given[0], positive, negative, "latents", given[1])

        yield make


def first_loss(train, model, **given):
    return train(model, steps=1, resume="new", batch_size=5, **given)[1]["loss"][0]


# Whose condition it is


def test_each_item_has_its_own_condition(items, seen, latents):
    batch = items().batch([3, 0], [False, False])
    torch.testing.assert_close(batch.condition["c_concat"], seen[[3, 0]] * 0.18215)
    torch.testing.assert_close(batch.x0, latents[[3, 0]] * 0.18215)


def test_items_of_two_sizes_have_conditions_of_theirs(items, latents, seen):
    wide = seen.repeat(1, 1, 1, 2)[:2]
    data = items([latents[:3], torch.randn(2, 4, 8, 16)], condition=[seen[:3], wide])
    for group, item, wanted in ((0, 2, seen[2]), (1, 3, wide[0]), (1, 4, wide[1])):
        assert item in data.groups[group]
        torch.testing.assert_close(data.condition(item)["c_concat"][0], wanted * 0.18215)


def test_a_dropped_caption_keeps_its_condition(items, captions, seen):
    condition = items(negative=captions[:1]).batch([1, 2], [False, True]).condition
    assert torch.equal(condition["c_crossattn"], torch.cat([captions[1][0][0], captions[0][0][0]]))
    torch.testing.assert_close(condition["c_concat"], seen[1:3] * 0.18215)


def test_a_condition_in_the_caption_gives_way(items, captions, seen):
    applied = [[[text, {"concat_latent_image": torch.ones(1, 4, 8, 8)}]] for ((text, _),) in captions]
    torch.testing.assert_close(items(positive=applied).condition(4)["c_concat"], seen[4:] * 0.18215)


def test_conditions_of_other_items_change_the_loss(wide, train, seen):
    losses = [first_loss(train, wide(), condition=one) for one in (seen, seen, seen.flip(0))]
    assert losses[0] == losses[1] and losses[0] != pytest.approx(losses[2], rel=1e-4)


def test_the_noisy_latent_itself_as_condition_changes_nothing(build, wide, train, seen, monkeypatch):
    """Both halves of the wide convolution are half of the plain one, so that a doubled input is no change."""
    from diff2flow_kit.nodes.host.training import TrainingNetwork

    plain, original = first_loss(train, build()), TrainingNetwork.__call__

    def doubled(self, x, timestep, told):
        return original(self, x, timestep, {**told, "c_concat": x})

    monkeypatch.setattr(TrainingNetwork, "__call__", doubled)
    assert first_loss(train, wide(), condition=seen) == pytest.approx(plain, rel=1e-5)


def test_texts_are_encoded_once(items, captions, monkeypatch):
    from diff2flow_kit.nodes.host.training import TrainingNetwork

    calls, encode = [], TrainingNetwork.condition
    monkeypatch.setattr(
        TrainingNetwork, "condition", lambda self, *arguments: calls.append(arguments) or encode(self, *arguments)
    )
    data = items(positive=captions[:1], negative=captions[1:2])
    data.fingerprint()
    for drop in (False, True, False):
        data.batch([0, 1, 2, 3, 4], [drop] * 5)
    assert len(calls) == 2


# What is learned


HALF = torch.zeros(1, 64, 64)
HALF[:, :, 32:] = 1  # the right half is known


@pytest.fixture
def blind(monkeypatch):
    """The network does not see the left half of its input, so that only the loss could tell what is there.

    With the objective naive_fm: velocities that are read off a noise prediction err there by what x0 has no part in.
    """
    from diff2flow_kit.nodes.host.training import TrainingNetwork

    original = TrainingNetwork.__call__
    kept = (torch.arange(8) >= 4).float()
    monkeypatch.setattr(TrainingNetwork, "__call__", lambda self, x, *rest: original(self, x * kept, *rest))


@pytest.mark.usefixtures("blind")
def test_unknown_places_of_the_target_change_neither_loss_nor_lora(wide, train, latents, seen, same):
    changed = latents.clone()
    changed[..., :4] += torch.randn(5, 4, 8, 4, generator=torch.Generator().manual_seed(1))
    runs = {
        (name, masked): train(
            wide(),
            [{"samples": one, **({"noise_mask": HALF} if masked else {})}],
            condition=seen,
            objective="naive_fm",
            run_name=f"{name}_{masked}",
        )
        for name, one in (("plain", latents), ("changed", changed))
        for masked in (True, False)
    }
    plain, other = runs["plain", True], runs["changed", True]
    assert plain[1] == other[1] and same(plain[0], other[0])
    plain, other = runs["plain", False], runs["changed", False]
    assert all(abs(a / b - 1) > 1e-3 for a, b in zip(plain[1]["loss"], other[1]["loss"], strict=True))
    assert not same(plain[0], other[0])


def test_other_condition_images_are_other_data_under_the_same_negative(wide, train, seen):
    dropping = {"steps": 1, "caption_dropout": 0.5, "negative": [[[torch.zeros(1, 7, 16), {}]]]}
    train(wide(), condition=seen, **dropping)
    with pytest.raises(ValueError, match="saved with other settings") as raised:
        train(wide(), condition=seen + 1, resume="continue", **dropping)
    assert "\n  data: " in str(raised.value) and "\n  negative: " not in str(raised.value)


def test_the_wide_convolution_is_trained_in_full_and_the_facts_say_so(wide, train, seen, saved):
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    lora = train(wide(), condition=seen, validation_latents=seen, validation_condition=seen)[0]
    (key,) = (key for key in lora if key.endswith("reshape_weight"))
    assert lora[key].tolist() == [32, 8, 3, 3]
    up, down = (lora[key.replace("reshape_weight", f"lora_{side}.weight")] for side in ("up", "down"))
    assert float((up.flatten(1) @ down.flatten(1)).abs().max()) > 1e-3
    for facts in (lora.facts, load_lora(saved()[-1]).facts):
        assert (facts.start, facts.condition) == ("noise", "image")
        assert "start" not in facts.training and "condition" not in facts.training


def test_without_a_condition_nothing_is_different(build, train):
    facts = train(build())[0].facts
    assert (facts.start, facts.condition) == ("t_min", "")


def test_a_run_goes_on_bit_for_bit(wide, train, seen, captions, same):
    settings = {
        "condition": seen,
        "negative": NULL,
        "caption_dropout": 0.3,
        "ema": 0.9,
        "dropout": 0.2,
        "preview_every": 2,
        "preview_cfg": 2.0,
    }
    whole = train(wide(), positive=captions, steps=5, run_name="whole", **settings)
    for steps in (2, 5):
        rest = train(wide(), positive=captions, steps=steps, **settings)
    assert same(whole[0], rest[0]) and whole[1] == rest[1]


def test_other_conditions_are_another_run(wide, train, seen, output):
    changed = seen.clone()
    changed[4, 3, 7, 7] += 1e-3
    for condition in (seen, seen.clone(), changed):
        train(wide(), steps=1, condition=condition)
    runs = sorted(path.name for path in (output / "diff2flow" / "runs").iterdir())
    assert runs == ["my_lora", "my_lora_00002"]


def test_previews_are_drawn_with_the_conditions_of_their_items(wide, train, seen, part, monkeypatch):
    told, preview = [], part("training.preview").Preview
    draw = preview.draw
    monkeypatch.setattr(preview, "draw", lambda self, loras: told.append(self.velocity) or draw(self, loras))
    train(wide(), condition=seen, negative=NULL, preview_every=1, preview_cfg=2.0, steps=1)
    (velocity,) = told
    wanted = seen[[0, 1, 2, 3]] * 0.18215
    torch.testing.assert_close(velocity.condition["c_concat"], wanted)
    torch.testing.assert_close(velocity.null["c_concat"], wanted)
    assert bool((velocity.null["c_crossattn"] == 0).all()) and not bool((velocity.condition["c_crossattn"] == 0).all())


def test_conditions_may_be_inference_tensors_and_stay_as_they_are(wide, train, seen, unharmed):
    model, given = wide(), seen.clone()
    assert given.is_inference()
    before = given.clone()
    train(model, condition=given)
    assert torch.equal(given, before)


# What does not fit

WRONG = {
    "count": (
        torch.zeros(4, 4, 8, 8),
        "'condition' has latents of the shapes (4, 4, 8, 8), but 'latents' of (5, 4, 8, 8)",
    ),
    "size": (
        torch.zeros(5, 4, 8, 16),
        "(5, 4, 8, 16), but 'latents' of (5, 4, 8, 8); give each item a condition of its",
    ),
    "entries": ([torch.zeros(2, 4, 8, 8), torch.zeros(3, 4, 8, 8)], "(2, 4, 8, 8), (3, 4, 8, 8), but 'latents' of (5"),
    "channels": (
        torch.zeros(5, 3, 8, 8),
        "'condition' holds latents of shape (5, 3, 8, 8), but this model takes (items, 4",
    ),
    "nan": (
        torch.full((5, 4, 8, 8), float("nan")),
        "'condition' holds NaN or infinite values; encode the images again",
    ),
    "none": ([], "'condition' has latents of the shapes none, but"),
}


@pytest.mark.parametrize("name", WRONG)
def test_conditions_that_do_not_fit_are_named(wide, train, output, name):
    given, words = WRONG[name]
    condition = [{"samples": one} for one in given] if isinstance(given, list) else given
    with pytest.raises(ValueError, match=re.escape(words)):
        train(wide(), condition=condition)
    assert not list(output.rglob("*"))


def test_a_model_and_its_condition_belong_together(build, wide, train, seen, unharmed):
    plain = build()
    with (
        unharmed(plain),
        pytest.raises(ValueError, match=r"'condition' is connected, but this model takes none; put 'A"),
    ):
        train(plain, condition=seen)
    words = (
        r"this model takes an image condition, but 'condition' is not connected; connect .* or remove 'Add Image Con"
    )
    with pytest.raises(ValueError, match=words):
        train(wide())


def test_validation_needs_conditions_of_its_own(wide, train, seen):
    with pytest.raises(
        ValueError, match=r"but 'validation_condition' is not connected; .* item of 'validation_latents'"
    ):
        train(wide(), condition=seen, validation_latents=seen)
    with pytest.raises(ValueError, match=r"'validation_condition' is connected, but 'validation_latents' is not"):
        train(wide(), condition=seen, validation_condition=seen)
    with pytest.raises(
        ValueError, match=r"'validation_condition' has latents of the shapes \(2, 4, 8, 8\), but 'valid"
    ):
        train(wide(), condition=seen, validation_latents=seen, validation_condition=seen[:2])


def test_pairs_have_no_conditions(part, host, build, wide, seen):
    training_items = part("training.items").training_items
    with host.training(build()) as network, pytest.raises(ValueError, match=r"'positive' or 'condition' are connected"):
        training_items(network, build(), None, None, None, object(), [{"samples": seen}])
    with host.training(wide()) as network, pytest.raises(ValueError, match=r"image condition, but 'pairs' holds none"):
        training_items(network, wide(), None, None, None, object())
