"""The demo model learns to paint depth from a picture: trained, saved, loaded on the plain checkpoint, sampled."""

import pytest
import torch


@pytest.fixture(scope="module")
def demo(pack):
    """MODEL, CLIP and VAE of the demo."""
    from diff2flow_kit.demo.networks import load_demo_checkpoint

    return load_demo_checkpoint()


@pytest.fixture
def scenes(demo, node):
    """`scenes(count, seed)` -> condition and target latents of as many scenes."""
    import nodes

    def make(count, seed=0):
        images, _, depth = node("D2FDemoScenes").execute("known words", count, seed).result
        target = node("D2FDepthTarget").execute(depth, 1.0, 99.0, True).result[0]
        return tuple(nodes.VAEEncode().encode(demo[2], pixels)[0]["samples"] for pixels in (images, target))

    return make


@pytest.mark.slow
def test_depth_is_learned_saved_loaded_and_sampled(demo, scenes, host, node, train, saved):
    import nodes
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    model, clip, vae = demo
    (empty,) = nodes.CLIPTextEncode().encode(clip, "")
    seen, wanted = scenes(32)
    settings = {"steps": 60, "batch_size": 8, "rank": 16, "learning_rate": 3e-3, "targets": "attention_and_conv"}
    _, losses, *_ = train(host.widen(model), wanted, empty, condition=seen, vae=vae, preview_every=30, **settings)
    before, after = (sum(part) / 10 for part in (losses["loss"][:10], losses["loss"][-10:]))
    assert after < 0.6 * before

    loaded, info = node("D2FLoadLora").execute(model, "none", 1.0, load_lora(saved()[-1])).result[:2]
    assert host.widened(loaded) and host.flow_settings(loaded) == ("noise", 1.0), info
    seen, wanted = scenes(4, 7)
    told = [[text, {**options, "concat_latent_image": seen}] for text, options in empty]
    (latent,) = nodes.common_ksampler(
        loaded, 0, 10, 1.0, "euler", "simple", told, told, {"samples": torch.zeros_like(wanted)}
    )
    assert bool(torch.isfinite(latent["samples"]).all())
    found, target = (vae.decode(one).mean(-1).flatten(1) for one in (latent["samples"], wanted))
    likeness = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(found, target)]
    swapped = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(found, target.roll(1, 0))]
    assert min(likeness) > 0.7 and all(own > other for own, other in zip(likeness, swapped))
