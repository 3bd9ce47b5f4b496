"""The settings nodes and presets: without them all is at its default, with them each setting arrives."""

from dataclasses import fields
from types import SimpleNamespace

import pytest

from devtools.prompts import prompt_for

NODES = {
    "D2FOptimizerOptions": "Optimizer Options (Diff2Flow)",
    "D2FLossOptions": "Loss Options (Diff2Flow)",
    "D2FLoraOptions": "LoRA Options (Diff2Flow)",
    "D2FMemoryOptions": "Memory Options (Diff2Flow)",
    "D2FSavingOptions": "Saving Options (Diff2Flow)",
}


@pytest.fixture
def options(part):
    return part("training.options.trainer_options")


@pytest.fixture
def plan(part):
    """`plan(options)` -> the plan of a trainer whose own widgets are at their defaults."""
    own = {one.id: one.default for one in part("training.widgets").training_widgets()}
    return lambda given, **widgets: part("training.sockets").plan_of({**own, **widgets}, given)


@pytest.fixture
def chained(node):
    """`chained((node id, {widget: value}), ...)` -> the options at the end of a chain, others at their defaults."""

    def run(*chain):
        reached = None
        for name, values in chain:
            cls = node(name)
            given = {
                one.id: one.default for one in cls.define_schema().inputs if getattr(one, "default", None) is not None
            }
            reached = cls.execute(options=reached, **{**given, **values}).result[0]
        return reached

    return run


def another(widget):
    """A value that the widget allows, but its default."""
    if hasattr(widget, "options"):
        return next(one for one in widget.options if one != widget.default)
    if isinstance(widget.default, bool):
        return not widget.default
    if isinstance(widget.default, str):
        return "*.attn2.*"
    return widget.max if widget.default != widget.max else widget.min


def test_every_setting_is_a_widget_of_the_trainer_or_of_one_settings_node(part, options, schemas):
    own = [one.id for one in part("training.widgets").training_widgets()]
    others = [widget.id for widgets in options.SETTINGS.values() for widget in widgets()]
    assert sorted(own + others) == sorted(field.name for field in fields(part("training.sockets").TrainingPlan))
    assert len(own) <= 10
    assert {name: schemas[name].display_name for name in NODES} == NODES and list(options.SETTINGS) == list(
        NODES.values()
    )


def test_without_options_all_is_at_its_default(build, train, plan, chained, same, output):
    """The same plan, so the same run: one with every settings node goes on with one without, to the same weights."""
    whole = chained(*((name, {}) for name in NODES))
    assert plan(None) == plan(whole) and plan(None).config() == plan(whole).config()
    assert (plan(None).optimizer, plan(None).lr_schedule, plan(None).density, plan(None).weight) == (
        "adamw", "constant", "auto", "none",
    )  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_each_setting_reaches_the_plan(name, schemas, plan, chained):
    widgets = [one for one in schemas[name].inputs if one.id != "options"]
    assert widgets
    for widget in widgets:
        value = another(widget)
        found, default = plan(chained((name, {widget.id: value}))), plan(None)
        assert getattr(found, widget.id) == value != getattr(default, widget.id)
        changed = {one.name for one in fields(found) if getattr(found, one.name) != getattr(default, one.name)}
        assert changed == {widget.id}


def test_settings_of_a_chain_are_in_the_file_of_the_lora(build, train, node, chained, conditioning, output):
    chain = chained(
        ("D2FOptimizerOptions", {"weight_decay": 0.25}), ("D2FLossOptions", {"loss": "huber"}),
        ("D2FLoraOptions", {"targets": "attention", "alpha": 3.0}), ("D2FMemoryOptions", {"checkpointing": True}),
    )  # fmt: skip
    facts = train(build(), **chain.values, steps=1)[0].facts
    assert {name: facts.training[name] for name in ("weight_decay", "loss", "targets", "checkpointing")} == {
        "weight_decay": 0.25, "loss": "huber", "targets": "attention", "checkpointing": True,
    }  # fmt: skip
    assert facts.alpha == 3.0


def test_the_node_nearer_to_the_trainer_counts_and_replaces_all_of_its_kind(chained, plan):
    one, two = ("D2FOptimizerOptions", {"ema": 0.9, "clip": 2.0}), ("D2FOptimizerOptions", {"clip": 3.0})
    other = ("D2FLossOptions", {"loss": "huber"})
    found = plan(chained(one, other, two))
    assert (found.ema, found.clip, found.loss) == (0.0, 3.0, "huber")
    assert plan(chained(two, other, one)).ema == 0.9


def test_its_text_says_what_is_not_at_its_default_and_what_is_replaced(node):
    preset = node("D2FTrainerPreset").execute("subject")
    widgets = {one.id: one.default for one in node("D2FOptimizerOptions").define_schema().inputs[1:]}
    said = node("D2FOptimizerOptions").execute(options=preset.result[0], **{**widgets, "ema": 0.5}).ui["text"][0]
    first, second = said.split("\n")
    assert first == "With this node: caption_dropout 0.1, preview_cfg 5.0, ema 0.5."
    assert second == "Replaces lr_schedule cosine (now constant), accumulation 4 (now 1)."


def test_every_preset_has_values_that_the_widgets_allow(part, plan, options, node):
    check, widgets = part("checks").check_value, {one.id: one for of in options.SETTINGS.values() for one in of()}
    own = {one.id: one for one in part("training.widgets").training_widgets()}
    presets = part("training.options.presets").PRESETS
    assert list(presets) == ["subject", "style", "concept on a small card", "reflow", "image to image"]
    for name, preset in presets.items():
        given, *values, info = node("D2FTrainerPreset").execute(name).result
        assert dict(given.values) == dict(preset.options)
        for setting, value in preset.options.items():
            check(widgets[setting], value)
            assert value != widgets[setting].default and f"{setting} {value}" in info, (name, setting)
        for setting, value in zip(("steps", "learning_rate", "rank", "batch_size"), values, strict=True):
            check(own[setting], value)
            assert f"{setting} {value:g}" in info
        plan(given, steps=1).check(has_negative=True, has_pairs=name == "reflow")
    with pytest.raises(ValueError, match="preset is 'portrait'; allowed are 'subject', 'style'"):
        node("D2FTrainerPreset").execute("portrait")


def test_a_preset_trains_for_any_number_of_steps(build, train, node, conditioning, output):
    given = node("D2FTrainerPreset").execute("subject").result[0]
    lora = train(build(), **given.values, steps=1, negative=conditioning[1])[0]
    assert lora.facts.training["caption_dropout"] == 0.1 and lora.facts.steps == 1


def test_a_run_goes_on_under_the_same_options_and_names_others(build, train, chained, same, output):
    first = chained(("D2FLossOptions", {"loss": "huber"}), ("D2FLoraOptions", {"dropout": 0.1})).values
    whole = train(build(), **first, steps=4, run_name="whole")[0]
    train(build(), **first, steps=2)
    assert same(train(build(), **first, steps=4, resume="continue")[0], whole)
    with pytest.raises(ValueError, match=r"loss: .*huber.*mse"):
        train(build(), **{**first, "loss": "mse"}, steps=5, resume="continue")


def test_what_the_trainer_has_no_input_for_is_refused_with_the_node_that_has_it(
    node, part, build, latents, conditioning
):
    """The host would drop it without a word, and the run would train at its default."""
    trainer = node("D2FTrainLora")
    trainer.hidden = SimpleNamespace(unique_id="7")
    own = {one.id: [one.default] for one in part("training.widgets").training_widgets()}
    data = ([build()], [{"samples": latents}], [conditioning[0]])
    with pytest.raises(ValueError, match=r"no input 'optimizer'; connect 'Optimizer Options \(Diff2Flow\)', which"):
        trainer.execute(*data, **own, optimizer=["prodigy"])
    with pytest.raises(ValueError, match="no input 'optimiser'; remove it from the prompt"):
        trainer.execute(*data, **own, optimiser=["prodigy"])
    with pytest.raises(ValueError, match="the trainer has no option lr; allowed are optimizer, "):
        part("training.options.trainer_options").TrainerOptions({"lr": 1.0})


def test_the_host_hands_such_an_input_to_the_trainer(server):
    from devtools.client import PromptError

    nodes = prompt_for("05 Few steps")
    graph = {key: nodes[key] for key in ("2", "45:700004", "5")}
    graph["5"]["inputs"] |= {"name": "unknown", "count": 2, "steps": 2, "prompts": "a cube"}
    trainer = {**nodes["8"], "inputs": {**nodes["8"]["inputs"], "steps": 1, "warmup_steps": 5}}
    del trainer["inputs"]["options"]
    with pytest.raises(PromptError, match=r"no input 'warmup_steps'; connect 'Optimizer Options \(Diff2Flow\)'"):
        server.run({**graph, "8": trainer})
