"""The adaptation task: what is new in its scenes, what its prompts ask for, and the metrics of known images."""

import numpy as np
import pytest
import torch

from diff2flow_kit.demo.adaptation import TASKS, Evaluation, new_scene, training_set
from diff2flow_kit.demo.render import render_batch
from diff2flow_kit.demo.scenes import is_held_out, make_scene


def renders(evaluation, rng, **changed):
    """A render of what each prompt asks for, with some words changed."""
    return render_batch([make_scene(rng, **{**wanted, **changed}) for wanted in evaluation.wanted])[0]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def evaluation(comfy):
    return Evaluation("color", new=16, known=8, references=64)


@pytest.mark.parametrize("task", TASKS)
def test_scenes_of_a_task_show_its_new_words_and_no_other_new_ones(rng, task):
    for _ in range(30):
        scene = new_scene(rng, task)
        words = {name: getattr(scene, name) for name in TASKS[task]}
        assert words == TASKS[task]
        assert is_held_out(scene.shape, scene.color, scene.texture)
        assert (scene.color == "cyan", scene.texture == "striped") == (task == "color", task == "texture")


def test_an_unknown_task_is_refused_with_the_known_ones(rng):
    with pytest.raises(ValueError, match="unknown task 'taste'; allowed are 'color', 'texture'"):
        new_scene(rng, "taste")


def test_prompts_name_what_is_wanted_and_known_prompts_nothing_new(evaluation):
    for i, (prompt, wanted) in enumerate(zip(evaluation.prompts, evaluation.wanted, strict=True)):
        assert wanted["color"] in prompt and wanted["shape"] in prompt
        assert ("position" in wanted) == ("background" in prompt) == (i % 2 == 0)
        assert ("cyan" in prompt) == (i < evaluation.new)


def test_renders_of_the_prompts_score_high(evaluation, rng):
    metrics = evaluation.measure(renders(evaluation, rng))
    assert metrics["accuracy"] >= 0.9 and metrics["new"] >= 0.9 and metrics["kept"] == 1


def test_another_colour_scores_low_and_lies_farther_from_the_reference(evaluation, rng):
    right, wrong = (evaluation.measure(renders(evaluation, rng, **changed)) for changed in ({}, {"color": "red"}))
    assert wrong["accuracy"] == wrong["new"] == 0
    assert wrong["kept"] < 0.5
    assert wrong["frechet"] > 2 * right["frechet"]


def test_another_shape_fails_where_the_colour_is_right(evaluation, rng):
    shape = "ring"
    metrics = evaluation.measure(renders(evaluation, rng, shape=shape))
    assert metrics["new"] >= 0.9
    by_chance = sum(wanted["shape"] == shape for wanted in evaluation.wanted[: evaluation.new]) / evaluation.new
    assert metrics["accuracy"] <= 1.1 * by_chance


def test_a_training_set_is_encoded_and_repeats_with_its_seed(demo_checkpoint):
    _, clip, vae = demo_checkpoint
    first, again, other = (training_set(clip, vae, "color", 6, seed) for seed in (0, 0, 1))
    assert first.latents.shape == (6, 4, 12, 12) and first.context.shape == (6, 24, 128)
    assert all("cyan" in text for text in first.captions)
    assert torch.equal(first.latents, again.latents) and first.captions == again.captions
    assert not torch.equal(first.latents, other.latents)
