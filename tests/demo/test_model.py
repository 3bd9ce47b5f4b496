"""The demo checkpoint behind the host's own sampler: prompts are obeyed, in time, without a trace."""

import pytest
import torch

from diff2flow_kit.demo.make_tokenizer import TOKENIZER

pytestmark = pytest.mark.host


def conditioning(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0]


def test_it_is_an_eps_model_on_the_sd_schedule(demo_checkpoint):
    model = demo_checkpoint[0]
    assert model.model.model_type.name == "EPS"
    sigmas = model.get_model_object("model_sampling").sigmas
    assert len(sigmas) == 1000
    assert float(sigmas[0]) == pytest.approx(0.0292, abs=1e-4)
    assert float(sigmas[-1]) == pytest.approx(14.615, abs=1e-2)


def test_numbers_of_the_vocabulary(demo_checkpoint):
    import json

    from diff2flow_kit.demo import networks

    vocab = json.loads((TOKENIZER / "vocab.json").read_text(encoding="ascii"))
    assert len(vocab) == networks.VOCAB_SIZE
    assert vocab["<|startoftext|>"] == networks.START_TOKEN
    assert vocab["<|endoftext|>"] == networks.END_TOKEN


def test_words_are_single_tokens(demo_checkpoint):
    sections = demo_checkpoint[1].tokenize("a large red sphere on the left, blue background")["l"]
    row = [token for token, _ in sections[0]]
    assert len(row) == 24
    assert row.index(828) == 11


@pytest.mark.parametrize("text", ["", "a red sphere", "a quite unknown zebra"])
def test_prompts_give_one_section(demo_checkpoint, text):
    cond, extra = conditioning(demo_checkpoint[1], text)
    assert cond.shape == (1, 24, 128)
    assert torch.isfinite(cond).all() and torch.isfinite(extra["pooled_output"]).all()


def test_a_long_prompt_gives_more_sections(demo_checkpoint):
    cond, _ = conditioning(demo_checkpoint[1], "a large red sphere on the left, blue background " * 4)
    assert cond.shape[1] > 24 and cond.shape[1] % 24 == 0


def test_prompt_weights_move_the_conditioning(demo_checkpoint):
    plain, _ = conditioning(demo_checkpoint[1], "a red sphere")
    heavy, _ = conditioning(demo_checkpoint[1], "a (red:1.4) sphere")
    assert not torch.allclose(plain, heavy)
    assert torch.allclose(plain, conditioning(demo_checkpoint[1], "a (red:1.0) sphere")[0])


def test_training_computes_the_host_s_text_encoder(demo_checkpoint):
    from diff2flow_kit.demo.make_latents import tokenize
    from diff2flow_kit.demo.train_unet import encode_text

    clip = demo_checkpoint[1]
    with torch.no_grad():
        mine = encode_text(clip.cond_stage_model, tokenize(["a red sphere"]))
    assert torch.allclose(mine, conditioning(clip, "a red sphere")[0].cpu(), atol=1e-5)


def test_latents_have_unit_variance(demo_checkpoint):
    import numpy as np

    from diff2flow_kit.demo.render import render_batch
    from diff2flow_kit.demo.scenes import sample_scene

    rng = np.random.default_rng(0)
    latents = demo_checkpoint[2].encode(render_batch([sample_scene(rng) for _ in range(64)])[0])
    var, mean = torch.var_mean(latents.float(), dim=(0, 2, 3))
    assert mean.abs().max() < 0.3
    assert var.sqrt().min() > 0.7 and var.sqrt().max() < 1.3


def test_a_missing_file_is_named(pack, tmp_path):
    from diff2flow_kit.demo.networks import load_demo_checkpoint

    with pytest.raises(FileNotFoundError, match=r"unet\.safetensors"):
        load_demo_checkpoint(tmp_path)


@pytest.fixture(scope="module")
def flow_checkpoint(pack):
    from diff2flow_kit.demo.networks import load_demo_checkpoint

    return load_demo_checkpoint(model="flow")


def test_the_twin_is_a_flow_model_without_a_shift(flow_checkpoint):
    sampling = flow_checkpoint[0].get_model_object("model_sampling")
    assert flow_checkpoint[0].model.model_type.name == "FLOW"
    assert (float(sampling.shift), float(sampling.sigma_max), float(sampling.timestep(torch.tensor(0.5)))) == (
        1,
        1,
        500,
    )


def test_loaded_as_eps_the_twin_has_the_same_weights(flow_checkpoint):
    from diff2flow_kit.demo.networks import WEIGHTS, load_model

    plain = load_model(WEIGHTS, "flow, loaded as eps")
    assert plain.model.model_type.name == "EPS"
    mine, other = (each.model.diffusion_model.state_dict() for each in (plain, flow_checkpoint[0]))
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
    assert plain.cached_patcher_init[1] == (WEIGHTS, "flow, loaded as eps")


@pytest.mark.parametrize("name", ["unet_flow", "clip"])
def test_a_missing_file_of_the_twin_is_named(pack, tmp_path, name):
    from diff2flow_kit.demo.networks import WEIGHTS, load_demo_checkpoint

    for file in WEIGHTS.iterdir():
        if file.stem != name:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(FileNotFoundError, match=rf"{name}\.safetensors"):
        load_demo_checkpoint(tmp_path, "flow")


def test_a_seed_fixes_the_image(demo_checkpoint):
    from diff2flow_kit.demo.evaluate import sample_images

    first = sample_images(demo_checkpoint, ["a red sphere"], seed=3, steps=4)
    assert torch.equal(first, sample_images(demo_checkpoint, ["a red sphere"], seed=3, steps=4))
    assert first.shape == (1, 96, 96, 3)


@pytest.mark.slow
def test_prompts_are_obeyed_in_time(demo_checkpoint):
    from diff2flow_kit.demo.evaluate import CFG, measure

    figures, _ = measure(demo_checkpoint, 256, CFG, seed=7)
    assert figures["shape"] >= 0.90
    assert figures["color"] >= 0.90
    assert figures["shape_and_color"] >= 0.90
    assert figures["seconds_batch_16"] > 0


@pytest.mark.slow
def test_the_twin_obeys_prompts_nearly_as_well(flow_checkpoint):
    """Within 8 points of the diffusion model."""
    from diff2flow_kit.demo.evaluate import CFG, measure

    figures, _ = measure(flow_checkpoint, 128, CFG, seed=8, kind="flow")
    assert min(figures["shape"], figures["color"], figures["shape_and_color"]) >= 0.92
    assert figures["position"] >= 0.91
