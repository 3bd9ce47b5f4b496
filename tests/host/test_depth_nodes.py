"""The depth nodes as the host calls them, on an untrained widened demo model."""

import importlib
import inspect
import math

import pytest
import torch

GRAY = "gray, far is white"


@pytest.fixture(scope="module")
def demo(pack):
    """(MODEL, CLIP, VAE) of the demo model."""
    return importlib.import_module(f"{pack.__name__}.demo.networks").load_demo_checkpoint()


@pytest.fixture
def widened(host, demo):
    return host.widen(demo[0])


@pytest.fixture(scope="module")
def empty_prompt(demo):
    clip = demo[1]
    return clip.encode_from_tokens_scheduled(clip.tokenize(""))


@pytest.fixture
def estimate(node, widened, demo, empty_prompt):
    """`estimate(image, ..)` -> colored, depth, uncertainty, nfe."""
    execute = node("D2FDepthFromImage").execute

    def run(image, model=None, steps=2, seed=0, ensemble=1, resolution=96, colors=GRAY, vae=demo[2]):
        return execute(model or widened, vae, image, empty_prompt, steps, seed, ensemble, resolution, colors).result

    return run


@pytest.fixture
def scenes(node):
    """IMAGE (2, 96, 96, 3) of scenes and their metric depth, MASK (2, 96, 96)."""
    images, _, depth = node("D2FDemoScenes").execute("known words", 2, 5).result
    return images, depth


@pytest.fixture
def target(node):
    execute = node("D2FDepthTarget").execute
    return lambda depth, low=1.0, high=99.0, clip=True, **rest: execute(depth, low, high, clip, **rest).result


@pytest.fixture
def metrics(node):
    execute = node("D2FDepthMetrics").execute
    return lambda prediction, depth, space="log", **rest: execute(prediction, depth, space, **rest).result


def picture(height, width, channels=3, count=1):
    generator = torch.Generator().manual_seed(height + width)
    return torch.rand(count, height, width, channels, generator=generator)


@pytest.mark.parametrize("size", [(96, 96), (50, 70), (131, 77), (40, 400), (9, 12)])
@pytest.mark.parametrize("resolution", [96, 0])
def test_any_size_and_aspect_is_restored(estimate, size, resolution):
    colored, depth, uncertainty, nfe = estimate(picture(*size), resolution=resolution, steps=1)
    assert colored.shape == (1, *size, 3) and depth.shape == uncertainty.shape == (1, *size)
    for one in (colored, depth, uncertainty):
        assert torch.isfinite(one).all() and one.min() >= 0 and one.max() <= 1
    assert nfe == 1


def test_large_images_are_worked_on_small(estimate, widened, watch):
    sizes = []
    watched = watch(widened, lambda run, x, timesteps: sizes.append(tuple(x.shape[-2:])) or run())
    depth = estimate(picture(1080, 1920), watched)[1]
    assert depth.shape == (1, 1080, 1920)
    assert sizes == [(9, 16), (9, 16)]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_and_transparent_images(estimate, channels):
    image = picture(96, 96, 3)
    image = image[..., :1].expand(-1, -1, -1, 3) if channels == 1 else image
    odd = torch.cat([image, picture(96, 96, 1)], -1) if channels == 4 else image[..., :channels]
    assert torch.equal(estimate(odd)[1], estimate(image)[1])


@pytest.mark.parametrize("fill", [0.0, 1.0, None], ids=["black", "white", "noise"])
def test_odd_images_give_finite_output(estimate, fill):
    image = picture(64, 64) if fill is None else torch.full((1, 64, 64, 3), fill)
    for one in estimate(image, ensemble=2, colors="spectral")[:3]:
        assert torch.isfinite(one).all()


def test_it_is_the_ksampler_between_encoder_and_decoder(host, node, estimate, widened, demo, empty_prompt, scenes):
    """Condition, euler on the uniform grid from noise, CFG 1: with the pack's other nodes."""
    vae = demo[2]
    latents = vae.encode(scenes[0][:1])
    conditioning = [[text, {**options, "concat_latent_image": latents}] for text, options in empty_prompt]
    flow = host.convert(widened, "noise")
    ksampler = node("D2FKSampler").execute
    grid, solver = {"grid": "uniform"}, {"solver": "euler"}
    latent, nfe = ksampler(
        flow, 7, 3, 1.0, solver, grid, conditioning, conditioning, {"samples": torch.zeros_like(latents)}, 1.0
    ).result
    wanted = vae.decode(latent["samples"]).mean(-1)
    colored, depth, uncertainty, ours = estimate(scenes[0][:1], seed=7, steps=3)
    assert ours == nfe == 3
    assert torch.allclose(depth, wanted, atol=1e-6) and wanted.std() > 0.01
    assert torch.allclose(colored, depth[..., None].expand_as(colored))
    assert (uncertainty == 0).all()


def test_a_model_that_is_a_flow_already_is_taken_as_it_is(host, estimate, widened, scenes):
    depths = {start: estimate(scenes[0], host.convert(widened, start))[1] for start in ("noise", "t_min")}
    assert torch.equal(depths["noise"], estimate(scenes[0])[1])
    assert not torch.equal(depths["noise"], depths["t_min"])


def test_the_image_makes_the_depth(estimate, scenes):
    first, second = estimate(scenes[0])[1]
    assert (first - second).abs().max() > 0.05


def test_images_of_a_batch_do_not_depend_on_each_other(estimate, scenes):
    both = estimate(scenes[0], ensemble=2)
    alone = estimate(scenes[0][1:], ensemble=2)
    for one, other in zip(both[:3], alone[:3]):
        assert torch.allclose(one[1:], other, atol=1e-5)


def test_an_ensemble_takes_seeds_that_follow_each_other(estimate, scenes):
    from diff2flow_kit.d2f_core import ensemble

    joined = estimate(scenes[0], seed=2**64 - 1, ensemble=3, steps=1)
    single = [estimate(scenes[0], seed=seed, steps=1)[1] for seed in (2**64 - 1, 0, 1)]
    depth, spread = ensemble(torch.stack(single))
    assert torch.allclose(joined[1], depth.clamp(0, 1), atol=1e-5)
    assert torch.allclose(joined[2], spread, atol=1e-5) and joined[2].max() > 0.01
    assert joined[3] == 3
    assert torch.equal(joined[1], estimate(scenes[0], seed=2**64 - 1, ensemble=3, steps=1)[1])


def test_depth_stays_in_its_range_where_alignment_leaves_it(host, estimate, monkeypatch):
    """A faint sample with one bright pixel: brought to the contrast of the other, that pixel is far above 1."""
    bright = torch.linspace(0, 1, 96).expand(1, 96, 96)
    faint = 0.45 + 0.1 * bright
    faint[0, 0, 0] = 1
    answers = iter([bright, faint])
    monkeypatch.setattr(host, "decode", lambda vae, samples: next(answers)[..., None].expand(1, 96, 96, 3))
    depth, spread = estimate(picture(96, 96), ensemble=2, steps=1)[1:3]
    assert depth[0, 0, 0] == 1 and depth.min() >= 0 and depth.std() > 0.1
    assert spread[0, 0, 0] > 1 and spread[0, 1:].max() < 0.01


def test_the_model_that_comes_in_is_not_changed(host, estimate, widened, fingerprint, scenes):
    estimate(scenes[0])
    mark = fingerprint(widened)
    estimate(scenes[0], seed=3)
    assert fingerprint(widened) == mark and not host.is_flow(widened)


def test_models_without_the_image_condition_are_refused(host, estimate, demo, scenes):
    for model in (demo[0], host.convert(demo[0])):
        with pytest.raises(ValueError, match=r"takes no image condition.*Load LoRA \(Diff2Flow\).*Add Image Condition"):
            estimate(scenes[0], model)


def test_a_checkpoint_without_vae_is_named(estimate, scenes):
    with pytest.raises(ValueError, match="input 'vae' is empty"):
        estimate(scenes[0], vae=None)


def test_a_cancel_stops_it_and_the_next_run_works(estimate, widened, watch, scenes):
    import comfy.model_management as management

    calls = []
    watched = watch(widened, lambda run, *_: calls.append(management.interrupt_current_processing()) or run())
    with pytest.raises(management.InterruptProcessingException):
        estimate(scenes[0], watched, steps=8, ensemble=4)
    assert len(calls) == 1
    assert torch.isfinite(estimate(scenes[0])[1]).all()


def test_targets_of_the_demo_scenes(target, scenes):
    image, valid, report = target(scenes[1])
    assert image.shape == (2, 96, 96, 3) and image.min() == 0 and image.max() == 1
    assert torch.equal(valid, torch.ones(2, 96, 96))
    assert torch.equal(image[..., 0], image[..., 2])
    order = torch.corrcoef(torch.stack([image[0, ..., 0].flatten(), scenes[1][0].log().flatten()]))
    assert float(order[0, 1]) > 0.999
    assert len(report.splitlines()) == 2 and report.startswith("image 1: depth ") and "100.0%" in report


def test_a_target_of_an_image_is_that_of_its_mean(target, scenes):
    depth = scenes[1]
    image = torch.stack([0.5 * depth, depth, 1.5 * depth, torch.ones_like(depth)], -1)  # the last is alpha
    assert torch.allclose(target(image)[0], target(depth)[0], atol=1e-5)


def test_holes_are_masked_and_white(target, scenes):
    depth = scenes[1].clone()
    depth[0, :10], depth[1, :5] = 0, math.inf
    mask = torch.ones(1, 96, 96)
    mask[:, :, 90:] = 0
    image, valid, report = target(depth, valid=mask)
    assert (image[0, :10] == 1).all() and (image[:, :, 90:] == 1).all()
    assert valid[0].sum() == 86 * 90 and valid[1].sum() == 91 * 90 and set(valid.unique().tolist()) == {0.0, 1.0}
    assert f"{86 / 96 * 90 / 96:.1%}" in report


def test_disparity_is_the_inverse_of_depth(target, scenes):
    depth = scenes[1]
    image, valid, _ = target(3 / depth, values="disparity")
    expected = target(depth)
    assert torch.allclose(image, expected[0], atol=1e-5) and torch.equal(valid, expected[1])
    holes = (3 / depth).clone()
    holes[:, :5] = 0  # nothing was measured
    assert not target(holes, values="disparity")[1][:, :5].any()


def test_maps_that_are_bright_where_things_are_near_are_asked_about(target, scenes, caplog):
    """Taken for depth they would train a model that paints near white, without a word."""
    depth = scenes[1]
    assert "disparity" not in target(depth)[2] and not caplog.records
    assert "set 'values' to disparity" in target(1 / depth)[2]
    assert "set 'values' to disparity" in caplog.text
    assert "set 'values'" not in target(1 / depth, values="disparity")[2]


def test_without_clipping_the_ends_go_on(target, scenes):
    image = target(scenes[1], 10.0, 90.0, False)[0]
    assert image.min() < 0 and image.max() > 1
    assert torch.allclose(image.clamp(0, 1), target(scenes[1], 10.0, 90.0)[0])


def test_a_target_survives_the_vae_and_is_measured_near_perfect(target, metrics, demo, scenes):
    """What the best depth model could reach through this VAE."""
    image, _, _ = target(scenes[1])
    absrel, delta1, _ = metrics(demo[2].decode(demo[2].encode(image)), scenes[1])
    assert absrel < 0.04 and delta1 > 0.98


def test_metrics_of_a_target_are_perfect(target, metrics, scenes):
    absrel, delta1, report = metrics(target(scenes[1], 0.0, 100.0)[0], scenes[1])
    assert absrel < 1e-5 and delta1 == 1
    lines = report.splitlines()
    assert lines[0].split() == ["image", "AbsRel", "delta1", "delta2", "delta3", "RMSE"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "mean"]
    assert lines[-1].split()[1:4] == ["0.0000", "1.0000", "1.0000"]


def test_metrics_are_those_of_the_core(metrics, scenes):
    from diff2flow_kit.d2f_core import depth_scores

    images, depth = scenes
    mask = (images[..., 0] > 0.3).float()
    for space in ("log", "depth", "disparity"):
        absrel, delta1, _ = metrics(images, depth, space, valid=mask)
        scores = depth_scores(images.mean(-1), depth, mask, space)
        assert absrel == pytest.approx(float(scores.absrel.mean())) and 0 < delta1 < 1
        assert delta1 == pytest.approx(float(scores.delta1.mean()))


def test_an_inverted_prediction_is_reported(metrics, scenes):
    depth = scenes[1]
    report = metrics(torch.stack([depth[0], 1 / depth[1]]), depth)[2]
    assert "exchanged in the prediction of image 2;" in report
    assert "exchanged" not in metrics(depth, depth)[2]


def test_sizes_that_differ_are_refused(metrics, scenes):
    with pytest.raises(ValueError, match=r"prediction has the shape \(2, 48, 48\)"):
        metrics(scenes[1][:, ::2, ::2], scenes[1])


@pytest.mark.parametrize("name", ["D2FDepthTarget", "D2FDepthFromImage", "D2FDepthMetrics"])
def test_arguments_of_execute_are_the_inputs_of_the_schema(node, name):
    cls = node(name)
    ids = {one.id for one in cls.define_schema().inputs}
    assert ids == set(inspect.signature(cls.execute).parameters)
