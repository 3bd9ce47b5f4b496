"""The second world's tokenizer, captions and networks: words, limits and sizes."""

import json
import string

import numpy as np
import pytest


@pytest.fixture(scope="module")
def vocab(demo):
    return json.loads((demo("worlds").SECOND.tokenizer / "vocab.json").read_text(encoding="ascii"))


def captions(demo, count):
    rng, scenes = np.random.default_rng(8), demo("world.scenes")
    style = [{}, {"style": "pencil"}]
    return [
        demo("world.captions").caption(scenes.sample_scene(rng, held_out=True, count=3, **style[i % 2]), rng)
        for i in range(count)
    ]


def test_the_files_are_those_of_the_vocabulary(demo):
    lines = (demo("worlds").SECOND.tokenizer / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    merges = demo("make_tokenizer").merges_for(demo("world.captions").VOCABULARY)
    assert [tuple(line.split()) for line in lines] == merges


def test_every_word_that_captions_use_is_one_token(demo, vocab):
    used = {word.strip(string.punctuation) for text in captions(demo, 300) for word in text.split()}
    assert used <= set(demo("world.captions").VOCABULARY)
    assert {f"{word}</w>" for word in used} <= set(vocab)


@pytest.mark.host
def test_captions_come_back_from_their_tokens_and_fit(pack, demo):
    networks, tokenize = demo("world.networks"), demo("make_latents").tokenize
    texts = captions(demo, 300)
    rows = tokenize(texts, demo("worlds").SECOND)
    assert rows.shape == (300, networks.MAX_TOKENS)
    tokenizer = networks.StillLifeWordTokenizer().tokenizer
    for text, row in zip(texts, rows.tolist()):
        assert row[0] == networks.END_TOKEN - 1 and row.count(networks.END_TOKEN) >= 8
        assert tokenizer.decode(row, skip_special_tokens=True).replace(" ,", ",").strip() == text


@pytest.mark.host
def test_a_caption_that_is_too_long_is_named(pack, demo):
    with pytest.raises(ValueError, match="a caption has 62 tokens, more than 48"):
        demo("make_latents").tokenize(["red " * 60], demo("worlds").SECOND)


@pytest.mark.host
def test_the_numbers_of_the_vocabulary(pack, demo, vocab):
    networks = demo("world.networks")
    assert len(vocab) == networks.VOCAB_SIZE
    assert vocab["<|startoftext|>"] == networks.END_TOKEN - 1 and vocab["<|endoftext|>"] == networks.END_TOKEN


@pytest.mark.host
def test_the_networks_fit_in_their_files(pack, demo):
    """In float16: the twin at most 11 MB, and with text encoder, autoencoder and tokenizer 18 MB."""
    networks, first = demo("world.networks"), demo("networks")
    unet = first.new_unet_model("meta", networks.CONFIG).diffusion_model
    nets = [unet, first.new_text_model(networks.CONFIG), demo("tiny_vae").TinyVAE()]
    sizes = [2 * sum(p.numel() for p in net.parameters()) for net in nets]
    tokenizer = sum(path.stat().st_size for path in demo("worlds").SECOND.tokenizer.iterdir())
    assert sizes[0] < 11e6 and sum(sizes) + tokenizer < 18e6


@pytest.mark.host
@pytest.mark.parametrize("prediction, kind", [("eps", "EPS"), ("v", "V_PREDICTION"), ("flow", "FLOW")])
def test_the_host_is_told_what_each_network_predicts(pack, demo, prediction, kind):
    config = demo("world.networks").MODELS[prediction].config
    assert config(config.unet_config).model_type({}).name == kind
    assert config(config.unet_config).clip_target().clip.__name__ == "StillLifeTextModel"
