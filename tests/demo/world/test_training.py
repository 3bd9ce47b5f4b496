"""Training of the second world: pool, objectives, resuming, and the arithmetic of the evaluation."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def small_pool(demo, tmp_path, monkeypatch):
    module = demo("world.make_pool")
    scenes_of = module.scenes_of
    monkeypatch.setattr(module, "scenes_of", lambda part, seed=1: scenes_of(part, seed, 12))
    module.render_part(tmp_path, 0)
    return module.load_pool(tmp_path, module.parts_in(tmp_path))


@pytest.fixture
def settings(pack, demo, tmp_path):
    """A cache of one latent, over and over, with one caption."""
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).half()
    tokens = demo("make_latents").tokenize(["a red cube left of a blue cone"], demo("worlds").SECOND)
    data = {"latents": latent.repeat(8, 1, 1, 1), "tokens": tokens[None].repeat(8, 2, 1)}
    save_file(data, tmp_path / "latents.safetensors")
    return demo("train_unet").Settings(demo("worlds").SECOND, tmp_path, 1.0, 3, batch=4)


def test_the_pool_holds_what_the_renderer_gives(demo, small_pool):
    rendered = demo("world.render").render_batch(small_pool.scenes)
    assert torch.equal(small_pool.numbers, rendered.numbers)
    assert (small_pool.images.permute(0, 2, 3, 1) / 255 - rendered.images).abs().max() < 0.003
    assert torch.allclose(small_pool.depths.float(), rendered.depths, rtol=1e-3)


def test_an_empty_cache_is_named(demo, tmp_path):
    with pytest.raises(ValueError, match=r"holds no renders of seed 1; run python demo world\.make_pool"):
        demo("world.make_pool").parts_in(tmp_path)


def test_latents_are_made_of_known_words_and_their_mirror_images(demo, small_pool):
    scenes, images = demo("world.make_latents").known(small_pool)
    module = demo("world.scenes")
    assert len(scenes) == len(images) >= 12 and not any(map(module.is_held_out, scenes))
    assert scenes[1] == module.mirrored(scenes[0]) and torch.equal(images[1], images[0].flip(-1))
    assert demo("world.make_latents").encoded(demo("tiny_vae").TinyVAE(), images).shape == (len(images), 4, 16, 16)


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_clean_images_follow_from_state_and_target(demo, prediction):
    """x0 = (x - sigma eps) / alpha = alpha x - sigma v = x - s (eps - x0)."""
    module, gen = demo("objectives"), torch.Generator().manual_seed(2)
    x0, sigma_ve = torch.randn(64, 4, 8, 8, generator=gen), torch.linspace(0.03, 14.6, 1000)
    sample = module.OBJECTIVES[prediction](x0, sigma_ve, module.Noise(0.5), gen)
    if prediction == "flow":
        found = sample.state - (sample.timestep / 1000).view(-1, 1, 1, 1) * sample.target
    else:
        ve = sigma_ve[sample.timestep.long()].view(-1, 1, 1, 1)
        alpha, sigma = 1 / (1 + ve**2).sqrt(), ve / (1 + ve**2).sqrt()
        x, y = sample.state, sample.target
        found = (x - sigma * y) / alpha if prediction == "eps" else alpha * x - sigma * y
    assert torch.allclose(found, x0, atol=1e-3)
    assert abs(sample.state.std().item() - 1) < 0.35 and len(sample.weight) == 64


def test_a_share_of_the_noise_is_strong(demo):
    module, gen = demo("objectives"), torch.Generator().manual_seed(3)
    rows = module.draw_rows(20000, 1000, module.Noise(0.5), gen)
    assert (rows >= 600).double().mean().item() == pytest.approx(0.5 + 0.5 * 0.4, abs=0.01)
    levels = module.draw_levels(20000, module.Noise(0.5), gen)
    assert (levels >= 0.7).double().mean().item() == pytest.approx(0.02 + 0.98 * (0.5 + 0.5 * 0.3), abs=0.01)
    assert (levels == 1).double().mean().item() == pytest.approx(0.02, abs=0.004)


@pytest.mark.host
def test_training_lowers_the_loss(demo, settings, monkeypatch):
    monkeypatch.setattr(demo("train_unet"), "WARMUP_STEPS", 1)
    trainer = demo("train_unet").Trainer(settings)
    losses = [trainer.step()[1] for _ in range(12)]
    assert losses[0] == pytest.approx(1, abs=0.1) and np.mean(losses[-3:]) < 0.9


@pytest.mark.host
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(demo, settings, tmp_path):
    module = demo("train_unet")
    trainer = module.Trainer(settings)
    trainer.step()
    trainer.save(tmp_path / "weights")
    expected = [trainer.step() for _ in range(2)]
    again = module.Trainer(settings)
    again.resume()
    found = [again.step() for _ in range(2)]  # the learning rate follows the clock
    assert np.allclose(found, expected, rtol=1e-5) and again.steps == 3
    assert again.clock() >= trainer.clock() - 60
    started = module.Trainer(replace(settings, seed=9))
    started.load(tmp_path / "weights")
    name = "unet.input_blocks.1.0.in_layers.2.weight"
    assert torch.allclose(started.nets.state_dict()[name], trainer.average[name], atol=2e-3) and started.steps == 0


@pytest.mark.host
@pytest.mark.parametrize("prediction", ["flow", "v"])
def test_a_twin_starts_from_the_main_model_and_trains_the_unet_alone(demo, settings, tmp_path, prediction):
    weights = tmp_path / "weights"
    demo("train_unet").Trainer(settings).save(weights)
    world = replace(settings.world, folder=tmp_path)
    (tmp_path / "tokenizer").symlink_to(settings.world.tokenizer)
    twin = demo("train_twin").TwinTrainer(replace(settings, world=world, prediction=prediction))
    before = {name: value.clone() for name, value in twin.nets.state_dict().items()}
    for _ in range(2):
        twin.step()
    twin.save(weights)
    changed = {name.split(".")[0] for name, value in twin.nets.state_dict().items() if not value.equal(before[name])}
    assert changed == {"unet"}
    assert {p.name for p in weights.iterdir()} == {f"unet_{prediction}.safetensors"} | {
        "unet.safetensors",
        "clip.safetensors",
    }


def test_psnr_is_of_the_mean_square_error(demo):
    class Off(torch.nn.Module):
        """Reconstructs everything 0.1 too light."""

        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        encode = staticmethod(lambda x: x)
        decode = staticmethod(lambda x: x + 0.1)

    images = torch.full((3, 3, 8, 8), 51, dtype=torch.uint8)
    psnr = demo("train_vae").reconstruction_psnr
    assert psnr(Off(), images) == pytest.approx(20, abs=1e-3)
    images[0] = 255  # cannot be lighter
    dark = torch.arange(3)[:, None, None].expand(3, 8, 8) > 0
    assert psnr(Off(), images, dark) == pytest.approx(20, abs=1e-3) and psnr(Off(), images) > 21


def test_the_loss_weighs_pixels(demo):
    module, x = demo("train_vae"), torch.zeros(1, 3, 4, 4)
    weight = torch.tensor([3.0, 1.0]).repeat_interleave(2).expand(1, 1, 4, 4)
    assert module.reconstruction_loss(x + 0.5, x, weight).item() == pytest.approx(2 * (0.5 + 4 * 0.25))


def test_a_batch_has_the_weights_of_its_pixels(demo):
    """Pictures that are 40 times their weight everywhere."""
    module, gen = demo("train_vae"), torch.Generator().manual_seed(0)
    weights = torch.randint(1, 5, (6, 80, 80), generator=gen).to(torch.uint8)
    images = (40 * weights)[:, None].expand(-1, 3, -1, -1).contiguous()
    x, heavy = module.sample_batch(images, torch.rand(6, 80, 80, generator=gen), weights, gen)
    assert x.shape == (16, 3, 64, 64) and heavy.shape == (16, 1, 64, 64)
    assert torch.allclose(x[4:15] * 255, 40 * heavy[4:15].expand(-1, 3, -1, -1), atol=1e-3)


def test_the_autoencoder_is_saved_while_it_learns(demo, small_pool, tmp_path, monkeypatch):
    module = demo("train_vae")
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    args = argparse.Namespace(minutes=0.03, rate=1e-3, seed=0, threads=1, device="cpu", decoder_only=False)
    args.out = tmp_path / "vae.safetensors"
    depths = demo("world.train_vae").first_worlds_range(small_pool.depths)
    file = tmp_path / "log.jsonl"
    module.train(module.new_vae(0, None), args, small_pool.images, depths, None, small_pool.images[:2], file)
    assert '"fresh_psnr"' in file.read_text(encoding="ascii")
    assert demo("make_latents").load_vae(args.out).encode(torch.rand(1, 3, 16, 16)).shape == (1, 4, 2, 2)


def test_the_mean_depth_is_no_good_guess(demo):
    rng, evaluate = np.random.default_rng(4), demo("world.evaluate")
    scenes = [demo("world.scenes").sample_scene(rng) for _ in range(96)]
    assert evaluate.mean_depth_delta1(demo("world.render").render_batch(scenes, 64, 1).depths) <= 0.75
    assert evaluate.mean_depth_delta1(torch.tensor([[[1.0, 2.0]], [[1.2, 6.0]]])) == pytest.approx(0.5)


def test_the_evaluation_asks_for_each_scene_and_for_each_held_out_word(demo, twelve, monkeypatch):
    scenes, _ = twelve
    evaluate, reader, prompts = demo("world.evaluate"), demo("world.reader"), []

    def sample(texts):
        prompts.extend(texts)
        return torch.zeros(len(texts), 8, 8, 3)

    seen = reader.Seen({"shape": "star", "color": "red", "texture": "plain"}, 0.0, 4.0)
    monkeypatch.setattr(evaluate, "read", lambda images: [reader.Reading((seen,), {"style": "pencil"}) for _ in images])
    found, _ = evaluate.measure(sample, scenes)
    assert found["solids"] == 0 and prompts == [demo("world.captions").plain_caption(scene) for scene in scenes]
    prompts.clear()
    assert evaluate.held_out_shares(sample, 3, 0) == {"star": 1.0, "cyan": 0.0, "dotted": 0.0, "pencil": 1.0}
    assert [sum(word in text for text in prompts) for word in ("star", "cyan", "dotted", "pencil")] == [3, 3, 3, 3]


def test_the_figures_of_each_number_of_steps_are_printed(demo, twelve, monkeypatch, capsys):
    """Ideal pictures are those of the renderer; the reader is one that has learned nothing."""
    evaluate, reader, asked = demo("world.evaluate"), demo("world.reader"), []
    untrained = reader.Reader().eval()
    monkeypatch.setattr(reader, "load_reader", lambda: untrained)

    def sample(texts, steps, cfg):
        asked.append((len(texts), steps, cfg))
        return twelve[1].images[: len(texts)]

    args = argparse.Namespace(seed=1, count=12, steps=[25, 2], prediction="eps", log=False)
    evaluate._figures(sample, args, 3.0, twelve[1].images)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["steps"], line["count"], line["frechet"]) for line in lines] == [(25, 12, 0), (2, 12, 0)]
    assert {"solids", "words", "number", "relation", "seconds_batch_16"} <= set(lines[0])
    assert asked == [(12, 25, 3.0)] * 4 + [(12, 2, 3.0)] * 4
