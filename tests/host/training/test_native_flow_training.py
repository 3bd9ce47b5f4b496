"""Native flow matching models in the trainer, as teachers of reflow pairs, and with their LoRAs."""

from types import SimpleNamespace

import pytest
import torch

KINDS = ("unet", "sd3", "auraflow", "flux")
LAYERS = {"unet": 56, "sd3": 7, "auraflow": 12, "flux": 6}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def flow(flow_models, build, kind):
    return flow_models.make(kind, build)


@pytest.fixture
def texts(flow_models, kind):
    return flow_models.conditionings(kind)


@pytest.fixture
def items(flow_models, kind):
    """Five latents of the kind's channels."""
    channels = flow_models.SHAPES[kind][0]
    return torch.randn(5, channels, 8, 8, generator=torch.Generator().manual_seed(5))


def drawn(host, model, texts, levels=(1.0, 0.75, 0.5, 0.25, 0.0)):
    """Latents of stock Euler at CFG 3 from the noise of seed 42."""
    import comfy.samplers

    latent = {"samples": torch.zeros(2, model.model.latent_format.latent_channels, 8, 8)}
    euler = comfy.samplers.ksampler("euler")
    return host.sample(model, latent, *texts, 3.0, euler, torch.tensor(levels), 42)["samples"]


def difference(one, other):
    return float((one - other).abs().max() / (other.max() - other.min()))


def test_the_trainer_asks_what_the_sampler_asks(host, flow, texts, items):
    """Input, timestep and answer of a training call are those of the host's own call at the same s."""
    import comfy.samplers

    asked, s, x = [], 0.625, items[:1]
    hook = flow.model.diffusion_model.register_forward_hook(
        lambda module, args, kwargs, answer: asked.append((*args[:2], answer)), with_kwargs=True
    )
    guider = comfy.samplers.CFGGuider(flow)
    guider.set_conds(texts[0], texts[0])
    guider.set_cfg(1.0)
    euler, sigmas = comfy.samplers.ksampler("euler"), torch.tensor([s, 0.0])
    guider.sample(torch.zeros_like(x), x, euler, sigmas, disable_pbar=True)
    hook.remove()
    state, timestep, answer = (one.clone() for one in asked[-1])
    with host.training(flow) as network_of, torch.no_grad():
        t = torch.tensor([1 - s], dtype=torch.float64)
        alignment = network_of.alignment
        assert torch.allclose(alignment.timestep(t).float(), timestep, rtol=1e-6)
        assert torch.equal(alignment.to_diffusion(state, t), state)
        condition = network_of.condition(texts[0], x.shape[1:])
        ours = network_of(state, alignment.timestep(t), condition)
    assert difference(ours, answer) < 1e-5


def test_a_lora_is_trained_saved_and_loaded(host, node, flow, texts, items, kind, train, saved, stock):
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    lora, losses, steps, _ = train(flow, items, texts[0], steps=6, learning_rate=0.05, targets="attention", seed=3)
    assert steps == 6 and all(torch.isfinite(torch.tensor(losses["loss"])))
    layers = {key.split(".")[0] for key in lora}
    assert len(layers) == LAYERS[kind], sorted(layers)
    assert all(key.startswith("lora_unet_") for key in lora)
    facts = load_lora(saved()[-1]).facts
    assert (facts.objective, facts.prediction, facts.start) == ("flow", "flow", "noise")
    assert facts.training["objective"] == "flow"

    mine, info = node("D2FLoadLora").execute(flow, "none", 1.0, lora).result
    assert "there is nothing to convert" in info and host.sampling_of(mine) is host.sampling_of(flow)
    theirs = stock("train", "LoraModelLoader").execute(flow, lora, 1.0).result[0]
    plain = drawn(host, flow, texts)
    assert difference(drawn(host, mine, texts), drawn(host, theirs, texts)) < 1e-5
    assert difference(drawn(host, mine, texts), plain) > 1e-3


def test_pairs_and_a_student(host, node, flow, texts, kind, train, output):
    generator = node("D2FReflowPairs")
    generator.hidden = SimpleNamespace(unique_id="7")
    widgets = {one.id: one.default for one in generator.define_schema().inputs if hasattr(one, "default")}
    widgets |= {"width": 64, "height": 64, "count": 3, "steps": 4, "cfg": 3.0, "storage": "fp32", "batch_size": 3}
    given = {name: [value] for name, value in widgets.items() if value is not None}
    pairs = generator.execute([flow], positive=[texts[0]], negative=[texts[1]], **given).result[0]
    assert pairs.settings["prediction"] == "flow"
    read = pairs.read(range(3))
    import comfy.samplers

    latent = {"samples": torch.zeros_like(read.x0)}
    guider = comfy.samplers.CFGGuider(flow)
    guider.set_conds(*texts)
    guider.set_cfg(3.0)
    sigmas = torch.linspace(1, 0, 5)
    stock = guider.sample(read.eps, latent["samples"], comfy.samplers.ksampler("euler"), sigmas, disable_pbar=True)
    assert difference(flow.model.process_latent_in(stock), read.x0) < 1e-4
    loaded = node("D2FLoadPairs").execute(pairs.folder.name).result[0]
    lora = train(flow, None, None, pairs=[loaded], steps=2, batch_size=3)[0]
    assert lora.facts.objective == "flow" and lora.facts.training["teacher_cfg"] == 3.0


def test_the_trajectory_report_measures_it(node, flow, texts, kind):
    trajectory = node("D2FTrajectory")
    trajectory.hidden = SimpleNamespace(unique_id="7")
    values = {"width": 64, "height": 64, "count": 2, "seed": 5, "cfg": 1.0, "cfg_2": 1.0, "reference_steps": 16}
    straight, _, report, _ = trajectory.execute(flow, texts[0], negative=texts[1], **values).result
    assert straight > 0 and "from t = 0.0000" in report


def test_checkpointing_changes_nothing(flow, texts, items, train, same):
    loras = [
        train(flow, items, texts[0], run_name=f"run_{on}", checkpointing=on, targets="all")[0] for on in (False, True)
    ]
    assert same(*loras)


@pytest.mark.parametrize("objective", ["naive_fm", "diffusion"])
def test_objectives_of_diffusion_models_are_refused(build, train, objective, output):
    with pytest.raises(ValueError, match=f"objective is {objective}, .*flow matching model of its own; choose diff2f"):
        train(build(flow=True), objective=objective)
    assert not list(output.rglob("*.safetensors"))
