"""Model Report as it is run, the demo models, and networks that return something else."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch


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
def as_other(watch):
    """`as_other(model, output)` -> the eps network as one that returns `output(x, eps, alpha, sigma)`."""

    def make(model, output):
        table = model.get_model_object("model_sampling").sigmas.double().log()

        def network(run, x, timesteps):
            low = timesteps.long().clamp(max=len(table) - 2)
            ve = torch.lerp(table[low], table[low + 1], timesteps.double() - low).exp().view(-1, 1, 1, 1)
            alpha = 1 / (1 + ve**2).sqrt()
            return output(x, run(), alpha, ve * alpha).to(x.dtype)

        return watch(model, network)

    return make


@pytest.fixture
def as_v(as_other):
    """`as_v(model)` -> one that returns v = alpha eps - sigma x0."""
    return lambda model: as_other(model, lambda x, eps, alpha, sigma: (eps - sigma * x) / alpha)


@pytest.fixture
def as_x0(as_other):
    """`as_x0(model)` -> one that returns x0 = (x - sigma eps) / alpha."""
    return lambda model: as_other(model, lambda x, eps, alpha, sigma: (x - sigma * eps) / alpha)
