"""Everything runs on a device that has no float64: sampling, training, previews, pairs, trajectories, encoding."""

from types import SimpleNamespace

import pytest
import torch

from d2f_core.time_map import exact_dtype


@pytest.fixture
def device(fake_device):
    """The fake device, in force during the test; it must have had something to do."""
    with fake_device() as device:
        yield device
    assert len(device.kernels) > 100


def execute(node, node_id, listed=False, **given):
    """The results of a node at its defaults but for what is given; `listed` as a node is called that takes lists."""
    chosen = node(node_id)
    chosen.hidden = SimpleNamespace(unique_id="7")
    values = {one.id: one.default for one in chosen.define_schema().inputs if getattr(one, "default", None) is not None}
    values |= given
    return chosen.execute(**({name: [value] for name, value in values.items()} if listed else values)).result


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION"])
@pytest.mark.parametrize("start", ["t_min", "noise"])
def test_sampling(build, host, sample, device, kind, start):
    converted = host.convert(build(kind), start)
    for name in ("euler", "dpmpp_2m", "heun"):
        assert torch.isfinite(sample(converted, host.stock_sigmas(converted, "karras", 4), name)).all()


@pytest.mark.parametrize("solver", ["heun", "rk4", "dopri5", "bosh3"])
def test_the_ode_sampler(build, host, node, sample, device, solver, monkeypatch):
    if solver in ("dopri5", "bosh3"):
        pytest.importorskip("torchdiffeq")
        from diff2flow_kit.d2f_core import adaptive

        # The times are float64 where the state is on the CPU, and that is where the fake device has it in fact.
        monkeypatch.setattr(adaptive, "exact_dtype", lambda device: exact_dtype(torch.device("meta")))
    converted = host.convert(build())
    sampler = execute(node, "D2FSampler", solver={"solver": solver})[0]
    levels = host.stock_sigmas(converted, "simple", 3)
    assert torch.isfinite(sample(converted, levels, sampler)).all()


@pytest.mark.parametrize("objective", ["diff2flow", "naive_fm", "diffusion"])
def test_training_with_previews(build, train, conditioning, output, device, objective):
    train(build("V_PREDICTION"), objective=objective, negative=conditioning[1], preview_every=2, preview_cfg=2.0)
    assert list(output.rglob("preview_*.jpg"))


@pytest.mark.parametrize("objective", ["diff2flow", "naive_fm", "diffusion"])
def test_training_with_samples_and_published_weights(pack, node, train, latents, output, device, objective):
    import nodes

    model, clip, vae = execute(node, "D2FDemoCheckpoint")
    few = {"width": 64, "height": 64, "steps": 2, "grid": {"grid": "logit_normal", "mean": 0.0, "std": 1.0}}
    samples = execute(node, "D2FSamplePrompts", clip=clip, vae=vae, prompts="a red cube --l 2\na ball --l 1", **few)
    (caption,) = nodes.CLIPTextEncode().encode(clip, "a cube")
    train(model, latents, caption, samples=list(samples), objective=objective, weight="min_snr", preview_every=1)
    assert len(list(output.rglob("step*.png"))) == 2 * 4


def test_pairs_and_a_trajectory(build, node, conditioning, output, device):
    size = {"width": 64, "height": 64}
    few = {"count": 3, "steps": 2, "batch_size": 2, "shard_size": 2, "solver": "heun", "cfg": 2.0}
    links = {"positive": conditioning[0], "negative": conditioning[1]}
    pairs = execute(node, "D2FReflowPairs", listed=True, model=build(), **links, **size, **few)[0]
    assert torch.isfinite(pairs.read(range(3)).x0).all()
    measured = execute(node, "D2FTrajectory", model=build(), **links, **size, count=2, cfg=2.0, reference_steps=9)
    assert measured[0] >= 0


def test_encoding(pack, node, output, tmp_path, device):
    from PIL import Image

    _, clip, vae = execute(node, "D2FDemoCheckpoint")[:3]
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (96, 96), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a red circle")
    latents = execute(node, "D2FFolderDataset", clip=clip, vae=vae, folder=str(folder))[0]
    assert all(torch.isfinite(one["samples"]).all() for one in latents)
    again, *_, report, _ = execute(node, "D2FFolderDataset", clip=clip, vae=vae, folder=str(folder))
    assert "latents: 2 from the cache, 0 encoded" in report
    assert all(torch.equal(one["samples"], two["samples"]) for one, two in zip(latents, again, strict=True))


EVERYTHING = {"validate_every": 1, "ema": 0.9, "loss": "huber", "accumulation": 2, "clip": 0.5, "dropout": 0.1}


@pytest.mark.parametrize("adapter", ["lora", "lokr", "loha", "dora", "oft"])
@pytest.mark.parametrize("density", ["auto", "timestep", "logit_normal", "u_shaped"])
def test_training_with_every_switch(build, train, latents, device, adapter, density):
    mask = torch.ones(5, 64, 64)
    items = [{"samples": latents, "noise_mask": mask}]
    given = {"validation_latents": latents[:2], "validation_positive": None, "adapter": adapter, "density": density}
    lora = train(build(), items, lr_schedule="cosine", warmup_steps=1, full_ends=True, **given, **EVERYTHING)[0]
    assert all(torch.isfinite(value).all() for value in lora.values())


def test_previews_at_the_default_step_and_a_resume(build, train, output, device):
    """Step 50 is where the first preview is made."""
    train(build(), steps=50, preview_every=50)
    assert [path.name for path in output.rglob("preview_*.jpg")] == ["preview_000050.jpg"]
    train(build(), steps=51, preview_every=50)


def test_training_on_an_image_condition(build, train, host, latents, device):
    train(host.widen(build()), condition=latents, preview_every=1, vae=None)


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_the_ksampler(build, node, conditioning, latents, device, denoise):
    links = {"positive": conditioning[0], "negative": conditioning[1], "latent_image": {"samples": latents[:1]}}
    combos = {"solver": {"solver": "heun"}, "grid": {"grid": "shifted", "shift": 3.0}}
    out = execute(node, "D2FKSampler", model=build(), **links, **combos, steps=3, denoise=denoise)[0]
    assert torch.isfinite(out["samples"]).all()


def test_depth(node, fake_device):
    """With --gpu-only the images of a graph are on the device."""
    depth = 1 + 4 * torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0))
    image = depth[..., None].expand(-1, -1, -1, 3).clone()
    with fake_device() as device:
        target = execute(node, "D2FDepthTarget", depth=image)[0]
        scores = execute(node, "D2FDepthMetrics", prediction=depth, target=image)
    assert torch.isfinite(target).all() and scores[0] >= 0 and device.kernels


def test_a_lora_is_loaded(build, train, node, sample, host, device):
    model = build()
    loaded = execute(node, "D2FLoadLora", model=model, lora="none", lora_model=train(model)[0])[0]
    assert torch.isfinite(sample(loaded, host.stock_sigmas(loaded, "simple", 2))).all()


def test_a_depth_is_estimated(build, node, host, conditioning, device):
    _, clip, vae, *_ = execute(node, "D2FDemoCheckpoint")
    model = host.widen(execute(node, "D2FDemoCheckpoint")[0])
    prompt = host.encode_caption(clip, "")
    image = torch.rand(1, 96, 96, 3, generator=torch.Generator().manual_seed(0))
    found = execute(node, "D2FDepthFromImage", model=model, vae=vae, image=image, positive=prompt, steps=1, ensemble=2)
    assert all(torch.isfinite(one).all() for one in found[:3])


@pytest.mark.parametrize(
    ("capability", "dtype", "said"),
    [("AVX2", "bf16", True), ("AVX512", "bf16", False), ("AVX2", "fp32", False)],
)
def test_a_processor_that_is_slow_in_16_bits_is_said(build, host, monkeypatch, capability, dtype, said):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with host.training(build(), dtype) as network:
        assert any("no instructions for 16 bits" in remark for remark in network.remarks) == said
