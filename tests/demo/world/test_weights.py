"""The trained networks of the second world, as far as there are any: the autoencoder behind the host's own class."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def renders(demo):
    rng = np.random.default_rng(77)
    return demo("world.render").render_batch([demo("world.scenes").sample_scene(rng) for _ in range(24)]).images


@pytest.mark.host
def test_the_hosts_autoencoder_gives_new_renders_back(pack, demo, renders):
    """At 28 dB at least, with latents of about unit variance; 31.1 dB were measured on 234 pictures."""
    vae = demo("networks").load_vae(demo("worlds").SECOND.weights)
    with torch.no_grad():
        latents = vae.encode(renders)
        decoded = vae.decode(latents).float().cpu()
    assert latents.shape == (24, 4, 16, 16) and decoded.shape == renders.shape
    assert -10 * (decoded - renders).square().mean().log10() >= 28
    var, mean = torch.var_mean(latents.float(), dim=(0, 2, 3))
    assert mean.abs().max() < 0.4 and var.sqrt().min() > 0.7 and var.sqrt().max() < 1.3
