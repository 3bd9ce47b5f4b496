"""Model Report on the demo models: every kind of network is named, right or wrong labels, and nothing is guessed."""

import re

import pytest
import torch

SEEDS = range(3)


@pytest.fixture(
    params=[
        "eps",
        "v",
        "v as eps",
        "v as zsnr",
        "x0",
        "x0 as eps",
        "flow",
        "flow as eps",
        "flow by node",
        "converted",
        "x0 label",
        "flow, converted",
        "eps as flow",
    ]
)
def case(request, demo, as_v, as_x0, stock, stock_sampling, node):
    """A model, what its network returns, and whether ComfyUI believes it."""
    eps, twin = demo()[0], demo("flow, loaded as eps")[0]
    shifted = stock("model_advanced", "ModelSamplingSD3")().patch
    return {
        "eps": lambda: (eps, "eps", True),
        "v": lambda: (stock_sampling(as_v(eps), "v_prediction"), "v", True),
        "v as eps": lambda: (as_v(eps), "v", False),
        "v as zsnr": lambda: (stock_sampling(as_v(eps), "v_prediction", zsnr=True), "v", True),
        "x0": lambda: (stock_sampling(as_x0(eps), "x0"), "x0", True),
        "x0 as eps": lambda: (as_x0(eps), "x0", False),
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


@pytest.mark.parametrize("seed", SEEDS)
def test_an_x0_network_answers_the_latent_at_every_level(demo, as_x0, report, pictures, seed):
    """Regressed on noise and latent its answer is nearly (0, 1) at three levels, and no other reading fits at any."""
    _, latents, captions = pictures(540 + seed)
    text = report(as_x0(demo()[0]), seed=seed, positive=captions, latent={"samples": latents})[0]
    assert "noise levels s = 0.3, 0.5, 0.7" in text and "  x0: relative error " in text
    answers = re.search(r"    diffusion +(a .*)", text)[1]
    pairs = [tuple(map(float, pair)) for pair in re.findall(r"a +(-?[\d.]+) b +(-?[\d.]+)", answers)]
    assert len(pairs) == 3 and all(abs(a) < 0.15 and abs(b - 1) < 0.15 for a, b in pairs), pairs
    rows = dict(re.findall(r"    (\w+) +((?:-?[\d.]+ +){3})", text.partition("slope (1 is right):")[2]))
    errors = {name: [float(one) for one in row.split()] for name, row in rows.items()}
    assert errors.keys() >= {"eps", "v", "x0", "edm", "flow", "velocity"}
    assert all(own < other for name in errors.keys() - {"x0"} for own, other in zip(errors["x0"], errors[name]))


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
