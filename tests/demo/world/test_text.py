"""What the text encoder is asked for before the pictures: answers that are read off captions."""

import json

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def described(demo):
    """300 scenes with a caption each."""
    rng, found = np.random.default_rng(12), []
    for i in range(300):
        scene = demo("world.scenes").sample_scene(rng, held_out=i % 2 == 0)
        found.append((scene, demo("world.captions").caption(scene, rng)))
    return found


def test_the_words_of_each_solid_are_those_of_the_scene(demo, described):
    said_in, named = demo("world.train_text").said_in, 0
    for scene, text in described:
        solids, whole, nouns = said_in(text)
        by_looks = {(solid.color, solid.shape): solid for solid in scene.solids}
        assert {(solid["color"], solid["shape"]) for solid in solids} == set(by_looks)
        assert [solid["place"] for solid in solids] == ["first", "second", "third"][: len(solids)] and len(
            nouns
        ) == len(solids)
        for solid in solids:
            there = by_looks[solid["color"], solid["shape"]]
            extra = [name for name in ("texture", "material", "size") if name in solid]
            assert [solid[name] for name in extra] == [getattr(there, name) for name in extra]
            named += len(extra)
        assert {name: getattr(scene, name) for name in ("floor", "wall") if name in whole}.items() <= whole.items()
    assert named > 600


def test_the_relation_is_told_of_the_second_solid_as_it_is_turned(demo, described):
    module, turned = demo("world.train_text"), 0
    for scene, text in described:
        solids, whole, _ = module.said_in(text)
        assert ["relation" in solid for solid in solids] == [False, "relation" in whole, False][: len(solids)]
        if "relation" in whole:
            same = (solids[0]["color"], solids[0]["shape"]) == (scene.solids[0].color, scene.solids[0].shape)
            expected = scene.relation if same else demo("world.scenes").OPPOSITE[scene.relation]
            assert whole["relation"] == expected
            turned += not same
    assert turned > 80


@pytest.mark.host
def test_questions_are_asked_at_the_nouns(pack, demo, described):
    from transformers import CLIPTokenizer

    module, texts = demo("world.train_text"), [text for _, text in described]
    captions, words = module.Captions(texts), CLIPTokenizer.from_pretrained(str(demo("worlds").SECOND.tokenizer))
    synonyms = demo("world.captions").SYNONYMS
    for row, (tokens, nouns) in enumerate(zip(captions.tokens, captions.nouns)):
        for noun, shape in zip(nouns[nouns > 0], captions.of_solids[row, :, 0]):
            word = demo("world.scenes").SHAPES[shape]
            said = words.convert_ids_to_tokens([int(tokens[noun])])[0].removesuffix("</w>")
            assert said in synonyms.get(word, (word,))


@pytest.mark.host
def test_what_is_not_named_is_not_asked(pack, demo):
    module = demo("world.train_text")
    captions, pupil = module.Captions(["a red cube and a blue cone"] * 4), module.Pupil(0)
    asked = captions.of_solids != module.UNNAMED
    names = [name for name, is_asked in zip(module.OF_SOLIDS, asked[0, 1]) if is_asked]
    assert names == ["shape", "color", "place"] and not asked[:, 2].any()
    for layer in pupil.at_nouns.layers:
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    loss, right = pupil.at_nouns(torch.zeros(4, 3, 128), captions.of_solids)
    assert loss.item() == pytest.approx(np.log([9, 11, 3]).sum(), abs=1e-5) and 0 <= right <= 1


@pytest.mark.host
def test_the_encoder_learns_and_is_the_start_of_the_pictures(pack, demo, tmp_path, monkeypatch):
    module, world = demo("world.train_text"), demo("worlds").SECOND
    monkeypatch.setattr(module, "SCENES", 256)
    monkeypatch.setattr(module, "FRESH", 64)
    monkeypatch.setattr(module, "LOG_EVERY", 10)
    written = tmp_path / "log.jsonl"
    monkeypatch.setattr(module, "log", lambda stage, _, **record: demo("train_log").log(stage, written, **record))
    module.main(["--minutes", "0.12", "--threads", "1", "--out", str(tmp_path / "clip.safetensors")])
    lines = [json.loads(line) for line in written.read_text(encoding="ascii").splitlines()]
    assert lines[-1]["done"] and lines[-1]["fresh_loss"] < lines[0]["fresh_loss"]
    from safetensors.torch import save_file

    save_file({"latents": torch.zeros(1, 4, 16, 16), "tokens": torch.zeros(1, 1, 48)}, tmp_path / "latents.safetensors")
    trainer = demo("train_unet").Trainer(demo("train_unet").Settings(world, tmp_path, 1.0, 3, batch=4))
    trainer.load_part("text", tmp_path / "clip.safetensors")
    stored = demo("train_log").load_half(tmp_path / "clip.safetensors")
    assert all(torch.equal(value, trainer.average[f"text.{name}"]) for name, value in stored.items())


def test_the_second_colour_of_a_texture_tells_white_from_black(demo):
    """White and black checkers are neither a white solid nor a black one."""
    rng, sample, second = (
        np.random.default_rng(3),
        demo("world.scenes").sample_scene,
        demo("world.surfaces").second_color,
    )
    seen: dict[str, set[float]] = {}
    for _ in range(400):
        for solid in sample(rng, held_out=True).solids:
            seen.setdefault(solid.color, set()).add(round(second(torch.tensor(solid.rgb))[0].item(), 2))
    assert seen.pop("white") == seen.pop("black") == {0.5} and set().union(*seen.values()) == {0.96} and len(seen) == 9
