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
    params=["eps", "v", "v as eps", "v as zsnr", "flow", "flow as eps", "flow by node", "converted", "x0 label"]
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
    }[request.param]()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_network_is_named(case, report, pictures, seed):
    model, network, believed = case
    _, latents, captions = pictures(500 + seed)
    text, found, agrees, is_flow, chart = report(model, seed=seed, positive=captions, latent={"samples": latents})
    assert (found, agrees, is_flow) == (network, believed, network == "flow"), text
    assert chart.shape == (1, 440, 800, 3)
    assert ("To do: " in text) != believed
