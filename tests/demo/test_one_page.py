"""The method on one page, `docs/diff2flow.py`, against the kit on the demo model: the same numbers, in float32."""

import copy
import importlib
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.host

SHAPE, SEED, BATCH = (4, 12, 12), 5, 2
CLOSE = {"rtol": 0, "atol": 1e-5}
STEPS = torch.linspace(0, 1, 5, dtype=torch.float64)


@pytest.fixture(scope="module")
def kit(pack):
    """The kit's core, its host room, and what it needs to generate reflow pairs."""
    names = {"core": "d2f_core", "host": "nodes.host", "sampling": "nodes.sampling.ode"}
    names |= {"generator": "nodes.reflow.pair_generator", "prompts": "nodes.reflow.prompts"}
    names |= {"items": "nodes.reflow.pair_items"}
    return SimpleNamespace(**{name: importlib.import_module(f"{pack.__name__}.{path}") for name, path in names.items()})


@pytest.fixture(scope="module")
def positive(demo_checkpoint):
    clip = demo_checkpoint[1]
    return clip.encode_from_tokens_scheduled(clip.tokenize("a red sphere"))


@pytest.fixture
def network(kit, demo_checkpoint):
    with kit.host.training(demo_checkpoint[0]) as network:
        yield network


@pytest.fixture
def condition(network, positive):
    """The conditioning kwargs of a batch."""
    return {name: value.repeat(BATCH, 1, 1) for name, value in network.condition(positive, SHAPE).items()}


@pytest.fixture
def flow(one_page, demo_checkpoint, network):
    """The page's conversion of the demo UNet, from the host's table of sigmas."""
    return one_page.Diff2Flow(network, demo_checkpoint[0].get_model_object("model_sampling").sigmas)


@pytest.fixture
def latents():
    """x0 and eps, (2, 4, 12, 12)."""
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(BATCH, *SHAPE, generator=generator) for _ in range(2))


def times(alignment):
    """Both ends, below t_min, t_min, the middle, t_max and above it."""
    low, high = alignment.t_min, alignment.t_max
    return torch.tensor([0, low / 2, low, 0.5, high, (1 + high) / 2, 1], dtype=torch.float64)


@torch.no_grad()
def test_velocity_and_x0(network, flow, latents, condition):
    alignment, x = network.alignment, latents[0]
    for t in times(alignment):
        t = t.expand(BATCH)
        output = network(alignment.to_diffusion(x, t), alignment.timestep(t), condition)
        torch.testing.assert_close(flow.x0_and_eps(output, x, t)[0], alignment.denoised(output, x, t), **CLOSE)
        torch.testing.assert_close(flow.velocity(x, t, condition), alignment.velocity(output, x, t), **CLOSE)


@torch.no_grad()
def test_the_loss(kit, network, flow, latents, condition):
    objective = kit.core.Objective(network.alignment)
    for t in times(network.alignment):
        pair = kit.core.Interpolant(*latents, t.expand(BATCH))
        output = network(*objective.model_input(pair), condition)
        torch.testing.assert_close(flow.loss(*pair, condition), objective.loss(output, pair), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_four_euler_steps_of_the_kit(kit, one_page, network, flow, latents, condition):
    alignment, eps = network.alignment, latents[1]

    def velocity(t, x):
        t = t.expand(len(x))
        return alignment.velocity(network(alignment.to_diffusion(x, t), alignment.timestep(t), condition), x, t)

    ours = one_page.sample(flow, eps, STEPS, condition)
    assert ours.std() > 0.3
    torch.testing.assert_close(ours, kit.core.solve(velocity, eps, STEPS, "euler"), **CLOSE)


@pytest.mark.parametrize("sampler", ["euler", "ode"])
def test_four_euler_steps_of_the_converted_model(
    kit, one_page, demo_checkpoint, network, flow, condition, positive, sampler
):
    import comfy.sample
    import comfy.samplers

    latent = {"samples": torch.zeros(BATCH, *SHAPE)}
    ode = (
        kit.host.make_sampler(kit.sampling.OdeSampler("euler"))
        if sampler == "ode"
        else comfy.samplers.ksampler(sampler)
    )
    converted = kit.host.convert(demo_checkpoint[0], "noise")
    with torch.inference_mode():
        sampled = kit.host.sample(converted, latent, positive, positive, 1.0, ode, (1 - STEPS).float(), SEED)["samples"]
    eps = comfy.sample.prepare_noise(latent["samples"], SEED)
    ours = one_page.sample(flow, eps.to(network.device), STEPS, condition)
    rounding = 1e-5 * ours.abs().max().item()  # four steps of it, and not the same on every processor
    torch.testing.assert_close(ours.cpu(), sampled.cpu(), rtol=0, atol=rounding)


def test_a_reflow_pair_and_its_loss(kit, one_page, demo_checkpoint, network, flow):
    model, clip, _ = demo_checkpoint
    settings = kit.generator.ReflowPairSettings(
        "one_page", count=BATCH, steps=4, cfg=1.0, solver="euler", width=96, height=96, batch_size=BATCH, seed=SEED,
        precision="auto", storage="fp32", shard_size=16,
    )  # fmt: skip
    prompts = kit.prompts.gather_prompts(["a red sphere\na blue cube"], "", clip, None)
    pairs = kit.generator.ReflowPairGenerator(model, settings, prompts, None).run()
    batch = kit.items.ReflowPairItems(network, model, pairs, None).batch(range(BATCH), [False] * BATCH)
    ((x0, eps, condition),) = one_page.reflow_pairs(flow, [(batch.eps, batch.condition)], STEPS)
    assert torch.equal(eps, batch.eps)
    torch.testing.assert_close(x0, batch.x0, **CLOSE)

    objective = kit.core.Objective(network.alignment)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    pair = kit.core.Interpolant(batch.x0, batch.eps, t)
    with torch.no_grad():
        expected = objective.loss(network(*objective.model_input(pair), batch.condition), pair)
        torch.testing.assert_close(flow.loss(x0, eps, t, condition), expected, rtol=1e-4, atol=1e-6)


def test_one_training_step(kit, one_page, network, flow, latents, condition):
    core, (x0, eps) = kit.core, latents
    data = SimpleNamespace(groups=[range(BATCH)])
    given = []

    def batch(items, drop):
        given.append(core.Batch(x0[items], {name: value[items] for name, value in condition.items()}, eps=eps[items]))
        return given[-1]

    data.batch = batch
    settings = core.AdapterSettings("attention", rank=2)
    theirs = core.make_adapters(network.module, settings, torch.Generator().manual_seed(1))
    ours = copy.deepcopy(theirs)

    def optimizer_of(adapters):
        return torch.optim.AdamW([p for a in adapters.values() for p in a.parameters()], lr=1e-3, weight_decay=0)

    run = core.Trainer(
        network.module, network, theirs, core.Objective(network.alignment), core.TimeDensity(), data,
        optimizer_of(theirs), None, core.TrainSettings(seed=SEED, batch_size=BATCH, clip=0),
    )  # fmt: skip
    (record,) = run.run(1)
    with torch.random.fork_rng(), core.attached(network.module, ours):
        torch.manual_seed(core.derive_seed(SEED, 0))
        torch.rand(BATCH)  # which captions the kit drops
        (loss,) = one_page.train(flow, optimizer_of(ours), [(given[0].x0, given[0].eps, given[0].condition)])
    assert loss == pytest.approx(record.loss, rel=1e-5)
    for path, adapter in theirs.items():
        assert adapter.up.any()
        torch.testing.assert_close(ours[path].up, adapter.up, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours[path].down, adapter.down, rtol=0, atol=1e-6)
