"""Model Report on the demo models: every kind of network is named, right or wrong labels, and nothing is guessed."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

SEEDS = range(3)


@pytest.fixture(scope="module")
def demo(pack):
    """`demo(name)` -> (MODEL, CLIP, VAE) of the embedded models, each loaded once."""
    networks, loaded = importlib.import_module(f"{pack.__name__}.demo.networks"), {}

    def load(name="diffusion"):
        if name not in loaded:
            loaded[name] = networks.load_demo_checkpoint(model=name)
        return loaded[name]

    return load


@pytest.fixture(scope="module")
def pictures(pack, demo):
    """`pictures(seed)` -> images (4, 96, 96, 3) of scenes, their latents, their captions as one CONDITIONING."""
    scenes, render, captions = (
        importlib.import_module(f"{pack.__name__}.demo.{name}") for name in ("scenes", "render", "captions")
    )

    def make(seed, count=4):
        rng = np.random.default_rng(seed)
        drawn = [scenes.sample_scene(rng) for _ in range(count)]
        images, (_, clip, vae) = render.render_batch(drawn)[0], demo()
        texts = [clip.encode_from_tokens_scheduled(clip.tokenize(captions.plain_caption(one)))[0][0] for one in drawn]
        return images, vae.encode(images), [[torch.cat(texts), {}]]

    return make


@pytest.fixture
def report(node):
    """`report(model, **inputs)` -> (report, network, agrees, is_flow, chart) of the node."""

    cls = node("D2FModelReport")
    cls.hidden = SimpleNamespace(unique_id="7")

    def run(model, count=4, seed=0, **inputs):
        return cls.execute(model, count, seed, **inputs).result

    return run


@pytest.fixture
def as_v(watch):
    """`as_v(model, zsnr)` -> the eps network as one that returns v = alpha eps - sigma x0 over its own table."""

    def make(model):
        table = model.get_model_object("model_sampling").sigmas.double().log()

        def network(run, x, timesteps):
            low = timesteps.long().clamp(max=len(table) - 2)
            ve = torch.lerp(table[low], table[low + 1], timesteps.double() - low).exp().view(-1, 1, 1, 1)
            eps = run()
            return ((eps - ve / (1 + ve**2).sqrt() * x) * (1 + ve**2).sqrt()).to(x.dtype)

        return watch(model, network)

    return make


@pytest.fixture(
    params=[
        "eps",
        "v",
        "v as eps",
        "v as zsnr",
        "flow",
        "flow as eps",
        "flow by node",
        "converted",
        "x0 label",
        "flow, converted",
        "eps as flow",
    ]
)
def case(request, demo, as_v, stock, stock_sampling, node):
    """A model, what its network returns, and whether ComfyUI believes it."""
    eps, twin = demo()[0], demo("flow, loaded as eps")[0]
    shifted = stock("model_advanced", "ModelSamplingSD3")().patch
    return {
        "eps": lambda: (eps, "eps", True),
        "v": lambda: (stock_sampling(as_v(eps), "v_prediction"), "v", True),
        "v as eps": lambda: (as_v(eps), "v", False),
        "v as zsnr": lambda: (stock_sampling(as_v(eps), "v_prediction", zsnr=True), "v", True),
        "flow": lambda: (demo("flow")[0], "flow", True),
        "flow as eps": lambda: (twin, "flow", False),
        "flow by node": lambda: (shifted(twin, 3.0)[0], "flow", True),
        "converted": lambda: (node("D2FConvert").execute(eps, "t_min", 1.0, "auto").result[0], "eps", True),
        "x0 label": lambda: (stock_sampling(eps, "x0"), "eps", False),
        "flow, converted": lambda: (node("D2FConvert").execute(twin, "t_min", 1.0, "auto").result[0], "flow", False),
        "eps as flow": lambda: (shifted(eps, 3.0)[0], "eps", False),
    }[request.param]()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_network_is_named(case, report, pictures, seed):
    model, network, believed = case
    _, latents, captions = pictures(500 + seed)
    text, found, agrees, is_flow, chart = report(model, seed=seed, positive=captions, latent={"samples": latents})
    assert (found, agrees, is_flow) == (network, believed, network == "flow"), text
    assert chart.shape == (1, 440, 800, 3)
    assert ("To do: " in text) != believed


def test_what_to_do_depends_on_what_is_there(demo, node, report, pictures, stock):
    _, latents, captions = pictures(520)
    inputs = {"positive": captions, "latent": {"samples": latents}}
    converted = node("D2FConvert").execute(demo("flow, loaded as eps")[0], "t_min", 1.0, "auto").result[0]
    text = report(converted, **inputs)[0]
    assert "To do: remove 'Convert to Flow Matching', and put 'ModelSamplingSD3' behind the loader" in text
    text = report(stock("model_advanced", "ModelSamplingSD3")().patch(demo()[0], 3.0)[0], **inputs)[0]
    assert "sampling 'eps' behind the loader, instead of the ModelSampling node that is there." in text


@pytest.mark.parametrize("scale", [0.18, 0.5, 2.0, 5.5])
@pytest.mark.parametrize("name", ["diffusion", "flow"])
def test_latents_of_another_scale_are_refused(demo, report, pictures, name, scale):
    _, latents, captions = pictures(600)
    text, found, agrees, is_flow, _ = report(demo(name)[0], positive=captions, latent={"samples": scale * latents})
    assert (found, agrees, is_flow) == ("cannot tell", False, False), text
    assert "Verdict: cannot tell" in text


@pytest.mark.parametrize("name", ["diffusion", "flow"])
def test_noise_instead_of_images_and_mixed_up_channels_are_refused(demo, report, pictures, name):
    _, latents, captions = pictures(601)
    noise = torch.randn(4, 4, 12, 12, generator=torch.Generator().manual_seed(9))
    for wrong in (noise, latents[:, [2, 0, 3, 1]] * torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 4, 1, 1)):
        assert report(demo(name)[0], positive=captions, latent={"samples": wrong})[1] == "cannot tell"


def test_random_weights_are_refused(build, report, conditioning, pictures):
    _, latents, _ = pictures(602)
    for kind in ("EPS", "V_PREDICTION"):
        assert report(build(kind), positive=conditioning[0], latent={"samples": latents})[1] == "cannot tell"


def test_images_and_one_latent_will_do(demo, report, pictures):
    images, latents, captions = pictures(603)
    model, clip, vae = demo()
    empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    assert report(model, positive=captions, image=images, vae=vae)[1] == "eps"
    text, found, *_ = report(model, positive=empty, latent={"samples": latents[:1]})
    assert found == "eps" and "(4 latents, seed 0, 6 calls" in text
    assert report(model, count=1, positive=empty, latent={"samples": latents})[1] == "eps"


def test_without_a_prompt_or_latents_it_says_what_comfyui_believes(demo, report, pictures, stock_sampling):
    _, latents, _ = pictures(604)
    model = demo()[0]
    for inputs in ({}, {"latent": {"samples": latents}}):
        text, found, agrees, is_flow, _ = report(model, **inputs)
        assert (found, agrees, is_flow) == ("cannot tell", False, False)
        assert "1000 timesteps, sigma 0.02917 to 14.615" in text and "t_min 0.0640, t_max 0.9717" in text
        assert "zero terminal SNR: no" in text and "as the loader chose it" in text and "Connect 'positive'" in text
    text = report(stock_sampling(model, "v_prediction", zsnr=True))[0]
    assert "zero terminal SNR: yes" in text and "set by a node before this one" in text and "v-prediction" in text
    assert "flow, s from 0 to 1, timestep 1000 s" in report(demo("flow")[0])[0]


def test_what_is_on_the_model_is_listed_and_acts(demo, report, pictures, stock):
    _, latents, captions = pictures(605)
    model = demo()[0].clone()
    key = "diffusion_model.input_blocks.0.0.weight"
    model.add_patches({key: ("diff", (torch.ones_like(model.model.get_parameter(key)),))}, 5.0)
    patched = stock("model_advanced", "RescaleCFG")().patch(model, 0.7)[0]
    text, found, *_ = report(patched, positive=captions, latent={"samples": latents})
    assert "patched weights (LoRAs): 1" in text and "RescaleCFG" in text
    assert found == "cannot tell"


def test_a_schedule_that_the_pack_cannot_read_is_reported_not_raised(demo, report, pictures, stock_sampling):
    _, latents, captions = pictures(606)
    text, found, agrees, *_ = report(stock_sampling(demo()[0], "lcm"), positive=captions, latent={"samples": latents})
    assert (found, agrees) == ("eps", False)
    assert "unknown to this pack" in text and "ModelSamplingDiscrete" in text


def test_edm_is_told_from_v(demo, as_v, report, pictures, stock, watch):
    _, latents, captions = pictures(607)
    model = stock("model_advanced", "ModelSamplingContinuousEDM")().patch(demo()[0], "edm", 120.0, 0.002)[0]

    def network(run, x, timesteps):
        """The eps network over EDM's schedule and sigma_data, with EDM's output."""
        ve = (4 * timesteps.double()).exp().view(-1, 1, 1, 1)
        data, table = 0.5, demo()[0].get_model_object("model_sampling")
        x_ve = x.double() * (ve**2 + data**2).sqrt()
        eps = inner(x_ve / (ve**2 + 1).sqrt(), table.timestep(ve.flatten().float()))
        return ((x_ve - ve * eps - x_ve * data**2 / (ve**2 + data**2)) * (ve**2 + data**2).sqrt() / (ve * data)).float()

    plain, context = demo()[0].model.diffusion_model, captions[0][0]

    def inner(x, timestep):
        return plain(x.float(), timestep.float(), context=context).double()

    text, found, agrees, *_ = report(watch(model, network), positive=captions, latent={"samples": latents})
    assert (found, agrees) == ("edm", True), text


@pytest.mark.parametrize(
    "inputs, word",
    [
        ({"latent": {"samples": torch.zeros(1, 4, 12, 12)}}, "empty"),
        ({"latent": {"samples": torch.full((1, 4, 12, 12), float("nan"))}}, "NaN"),
        ({"latent": {"samples": torch.randn(1, 16, 12, 12)}}, "4 channels"),
        ({"image": torch.rand(1, 96, 96, 3)}, "'vae'"),
        ({"image": torch.rand(1, 96, 96, 3), "latent": {"samples": torch.randn(1, 4, 12, 12)}}, "both"),
        ({"count": 9}, "count"),
    ],
)
def test_errors_name_the_input(demo, report, inputs, word):
    with pytest.raises(ValueError, match=word):
        report(demo()[0], **inputs)


def test_nothing_is_left_behind(demo, report, pictures, fingerprint):
    _, latents, captions = pictures(608)
    for name in ("diffusion", "flow"):
        model, state = demo(name)[0], torch.get_rng_state()
        before, sampling = fingerprint(model), model.get_model_object("model_sampling")
        first = report(model, positive=captions, latent={"samples": latents})
        again = report(model, positive=captions, latent={"samples": latents})
        assert first[0] == again[0] and torch.equal(first[4], again[4])
        assert fingerprint(model) == before and model.get_model_object("model_sampling") is sampling
        assert torch.equal(torch.get_rng_state(), state)


def test_it_runs_on_the_dynamic_patcher(dynamic, report, conditioning, pictures):
    _, latents, _ = pictures(609)
    assert report(dynamic("EPS"), positive=conditioning[0], latent={"samples": latents})[1] == "cannot tell"
