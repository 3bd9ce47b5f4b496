"""Everything runs on a device that has no float64: sampling, training, previews, pairs, trajectories, encoding."""

from types import SimpleNamespace

import pytest
import torch


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


@pytest.mark.parametrize("solver", ["heun", "rk4"])
def test_the_ode_sampler(build, host, node, sample, device, solver):
    converted = host.convert(build())
    sampler = execute(node, "D2FSampler", solver={"solver": solver})[0]
    levels = host.stock_sigmas(converted, "simple", 3)
    assert torch.isfinite(sample(converted, levels, sampler)).all()


@pytest.mark.parametrize("objective", ["diff2flow", "naive_fm", "diffusion"])
def test_training_with_previews(build, train, conditioning, output, device, objective):
    train(build("V_PREDICTION"), objective=objective, negative=conditioning[1], preview_every=2, preview_cfg=2.0)
    assert list(output.rglob("preview_*.jpg"))


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
