"""The trainer on reflow pairs: fixed noise, the teacher's guidance, facts of the file, and what is refused."""

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def pairs(node, output, build, conditioning):
    """Eight pairs of the small model under guidance 3."""
    generator = node("D2FReflowPairs")
    generator.hidden = SimpleNamespace(unique_id="7")
    widgets = {one.id: one.default for one in generator.define_schema().inputs if hasattr(one, "default")}
    widgets |= {"width": 64, "height": 64, "count": 8, "steps": 4, "cfg": 3.0, "shard_size": 3, "storage": "fp32"}
    positive, negative = conditioning
    given = {name: [value] for name, value in widgets.items() if value is not None}
    return generator.execute([build()], positive=[positive], negative=[negative], **given).result[0]


def on_pairs(train, model, pairs, **given):
    return train(model, None, None, pairs=[pairs], **given)


def test_batches_are_the_pairs(part, host, build, pairs, conditioning):
    with host.training(build()) as network:
        items = part("reflow.pair_items").ReflowPairItems(network, build(), pairs, [conditioning[1]])
        batch = items.batch([6, 1], [False, True])
        assert torch.equal(batch.x0, pairs.read([6, 1]).x0) and torch.equal(batch.eps, pairs.read([6, 1]).eps)
        expected = torch.cat([conditioning[0][0][0], conditioning[1][0][0]])
        assert torch.equal(batch.condition["c_crossattn"], expected)
        assert len(items) == 8 and items.groups == [range(8)] and items.shape == (4, 8, 8) and items.has_null
        assert repr(items) == repr(pairs)


def test_the_noise_is_the_pairs_own(build, train, pairs, monkeypatch):
    """Every state that the network evaluates lies on the line between a noise and its own latent."""
    from diff2flow_kit.d2f_core import Objective as objective

    interpolants = []
    model_input = objective.model_input
    monkeypatch.setattr(
        objective, "model_input", lambda self, pair: interpolants.append(pair) or model_input(self, pair)
    )
    on_pairs(train, build(), pairs, batch_size=3, steps=3)
    read = pairs.read(range(8))
    assert len(interpolants) == 3
    for pair in interpolants:
        for eps, x0 in zip(pair.eps, pair.x0):
            row = [bool(torch.equal(one, eps)) for one in read.eps].index(True)
            assert torch.equal(read.x0[row], x0)


@pytest.mark.slow
def test_the_student_learns_the_guidance(host, build, train, pairs):
    """Halfway, without guidance, the student points from noise to latent better than the model itself."""
    model = build()
    settings = {"steps": 120, "batch_size": 8, "learning_rate": 5e-3, "targets": "all", "rank": 16}
    lora = on_pairs(train, model, pairs, **settings)[0]
    read = pairs.read(range(8))

    def error(one):
        with host.training(one) as network, torch.no_grad():
            x, t = (read.eps + read.x0) / 2, torch.full((8,), 0.5)
            condition = {name: value.expand(8, -1, -1) for name, value in pairs.conditions([0])[0].items()}
            output = network(network.alignment.to_diffusion(x, t), network.alignment.timestep(t), condition)
            return float((network.alignment.velocity(output, x, t) - (read.x0 - read.eps)).square().mean())

    assert error(host.apply_lora(model, lora, 1.0)) < 0.5 * error(model)


def test_the_file_says_that_it_was_reflowed(build, train, pairs, saved, node, host):
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    lora = on_pairs(train, build(), pairs)[0]
    for facts in (lora.facts, load_lora(saved()[-1]).facts):
        assert facts.start == "noise" and facts.shift == 1
        recorded = facts.training
        assert (recorded["pairs"], recorded["teacher_cfg"], recorded["teacher_steps"]) == (pairs.fingerprint, 3.0, 4)
        assert recorded["teacher_solver"] == "euler" and recorded["items"] == 8
    loaded, info = node("D2FLoadLora").execute(build(), "none", 1.0, lora).result[:2]
    assert host.flow_settings(loaded) == ("noise", 1.0) and "start noise" in info


@pytest.mark.parametrize("converted", [False, True])
def test_guidance_on_what_has_learned_guidance_is_said_at_the_sampler(
    build, train, pairs, node, host, sample, caplog, converted
):
    """A reflow LoRA at CFG 7 once burned the pictures in silence."""
    lora = on_pairs(train, build(), pairs)[0]
    model = host.convert(build(), "noise") if converted else build()
    loaded, info = node("D2FLoadLora").execute(model, "none", 1.0, lora).result[:2]
    assert "sample it at CFG 1, as guidance at CFG 3 is part of it" in info
    caplog.clear()
    sample(loaded, torch.tensor([1.0, 0.5, 0.0]), cfg=1.0)
    assert "colours burn out" not in caplog.text
    sample(loaded, torch.tensor([1.0, 0.5, 0.0]), cfg=7.0)
    assert "learned the images of CFG 3, to which CFG 7 is added: colours burn out. Set cfg to 1" in caplog.text
    assert host.identity_of(loaded, []) == {}


def test_latents_keep_the_models_start(build, train, host):
    assert train(build())[0].facts.start == "t_min"
    assert train(host.convert(build(), "noise"), run_name="b")[0].facts.start == "noise"
    assert "pairs" not in train(build())[0].facts.training


def test_a_second_round_starts_from_the_first(build, train, pairs, node, host):
    """A converted model with a reflow LoRA is trained on, and its LoRA stays part of it."""
    model = build()
    first = on_pairs(train, model, pairs, learning_rate=0.1)[0]
    loaded = node("D2FLoadLora").execute(model, "none", 1.0, first).result[0]
    second = on_pairs(train, loaded, pairs, run_name="second")[0]
    assert second.facts.base != first.facts.base and second.facts.start == "noise"
    both = node("D2FLoadLora").execute(loaded, "none", 1.0, second).result[0]
    assert host.is_converted(both) and len(both.patches) == len(loaded.patches)


def test_a_run_on_pairs_goes_on(build, train, pairs, same):
    whole = on_pairs(train, build(), pairs, steps=4, run_name="whole")[0]
    on_pairs(train, build(), pairs, steps=2)
    assert same(on_pairs(train, build(), pairs, steps=4)[0], whole)


def test_previews_and_dropped_captions(build, train, pairs, conditioning, output):
    given = {"negative": conditioning[1], "caption_dropout": 0.5, "preview_every": 1, "preview_cfg": 2.0}
    on_pairs(train, build(), pairs, steps=2, **given)
    assert len(list(output.rglob("preview_*.jpg"))) == 2


def test_validation_needs_captions_of_its_own(build, train, pairs, latents, conditioning):
    with pytest.raises(ValueError, match="connect 'validation_positive'"):
        on_pairs(train, build(), pairs, validation_latents=latents[:2])
    on_pairs(train, build(), pairs, validation_latents=latents[:2], validation_positive=conditioning[0])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("latents", "positive", "pairs"), "both 'pairs' and 'latents', 'positive' or 'condition' are connected"),
        (("positive", "pairs"), "both 'pairs' and 'latents', 'positive' or 'condition' are connected"),
        ((), "'latents' is not connected; connect 'latents' and 'positive' .* or 'pairs' to reflow"),
        (("latents",), "'positive' is not connected"),
    ],
)
def test_latents_or_pairs(build, train, pairs, latents, conditioning, unharmed, given, words):
    model = build()
    linked = {"pairs": [pairs]} if "pairs" in given else {}
    chosen = (latents if "latents" in given else None, conditioning[0] if "positive" in given else None)
    with unharmed(model), pytest.raises(ValueError, match=words):
        train(model, *chosen, **linked)


def test_pairs_of_another_model_are_refused(build, train, pairs, unharmed, saved):
    pairs.shape = (16, 8, 8)
    model = build()
    with (
        unharmed(model),
        pytest.raises(ValueError, match=r"latents with 16 channels generated by .*, but this model is .* have 4"),
    ):
        on_pairs(train, model, pairs)
    assert saved() == []


def test_a_shard_that_is_damaged_while_training(build, train, pairs, unharmed, saved):
    """What was learned before is saved; the message names the file."""
    model = build()
    (pairs.folder / "shard-00001.safetensors").write_bytes(b"cut")
    with unharmed(model), pytest.raises(ValueError, match=r"shard-00001\.safetensors was removed or changed"):
        on_pairs(train, model, pairs, steps=8)
