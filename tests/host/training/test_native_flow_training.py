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

    lora, losses, steps, *_ = train(flow, items, texts[0], steps=6, learning_rate=0.05, targets="attention", seed=3)
    assert steps == 6 and all(torch.isfinite(torch.tensor(losses["loss"])))
    layers = {key.split(".")[0] for key in lora}
    assert len(layers) == LAYERS[kind], sorted(layers)
    assert all(key.startswith("lora_unet_") for key in lora)
    facts = load_lora(saved()[-1]).facts
    assert (facts.objective, facts.prediction, facts.start) == ("flow", "flow", "noise")
    assert facts.training["objective"] == "flow"

    mine, info = node("D2FLoadLora").execute(flow, "none", 1.0, lora).result[:2]
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


def test_stock_nodes_sample_the_file_behind_the_flow_patch(host, node, build, train, stock, saved, conditioning):
    """Trained behind ModelSamplingSD3: the stock Load LoRA behind ModelSamplingSD3 samples the file as ours does."""
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    patch = stock("model_advanced", "ModelSamplingSD3")().patch
    lora = train(patch(build("EPS"), 3.0)[0], steps=4, learning_rate=0.1, targets="all")[0]
    assert (lora.facts.objective, lora.facts.shift, lora.facts.base_model) == ("flow", 3.0, "Config")
    file = load_lora(saved()[-1])
    ours = node("D2FLoadLora").execute(patch(build("EPS"), 6.0)[0], "none", 1.0, file).result[0]
    theirs = patch(stock("train", "LoraModelLoader").execute(build("EPS"), dict(file), 1.0).result[0], 6.0)[0]
    plain = drawn(host, patch(build("EPS"), 6.0)[0], conditioning)
    assert difference(drawn(host, ours, conditioning), drawn(host, theirs, conditioning)) < 1e-5
    assert difference(drawn(host, ours, conditioning), plain) > 1e-2


def test_a_lora_of_a_flow_model_is_for_flow_models(node, build, train, stock, conditioning):
    lora = train(build(flow=True), steps=1)[0]
    load = node("D2FLoadLora").execute
    with pytest.raises(ValueError, match=r"trained on a flow matching model, but this one is sampled as a diffusion .*"
                       r"put ModelSamplingSD3 before this node"):  # fmt: skip
        load(build("EPS"), "none", 1.0, lora)
    other = train(build("EPS"), steps=1, run_name="eps")[0]
    words = (
        "trained on a diffusion model with eps-prediction, but this one is sampled as a flow matching model of its own"
    )
    with pytest.raises(ValueError, match=words):
        load(build(flow=True), "none", 1.0, other)
    aura = stock("model_advanced", "ModelSamplingAuraFlow")().patch_aura(build("EPS"), 1.73)[0]
    assert "another noise schedule" in load(aura, "none", 1.0, lora).result[1]


def test_the_node_says_that_the_objective_is_flow(build, train, part, monkeypatch):
    texts = []
    monkeypatch.setattr(part("host.progress").NodeProgress, "say", lambda self, text: texts.append(text))
    train(build(flow=True), steps=1)
    assert texts[0] == "starting; objective flow, as this is a flow matching model of its own"
    texts.clear()
    train(build("EPS"), steps=1, run_name="eps")
    assert texts[0] == "starting"


def test_its_loss_is_that_of_flow_matching(build, train, watch, latents):
    """A network that answers eps - x0 for the only picture has no loss at any t; with the other sign, a large one."""
    x0 = latents[:1] * 0.18215

    def ideal(sign):
        def network(run, x, timesteps):
            s = (timesteps / 1000).clamp(min=1e-3).reshape(-1, 1, 1, 1)
            return run() * 0 + sign * (x - x0) / s  # (1 - s) x0 + s eps - x0 = s (eps - x0)

        return watch(build(flow=True), network)

    right, wrong = (train(ideal(sign), latents[:1], steps=2, resume="new")[1]["loss"] for sign in (1.0, -1.0))
    assert max(right) < 1e-3 and min(wrong) > 1


def test_an_image_condition(host, node, build, train, conditioning, latents):
    flow = host.widen(build(flow=True))
    seen = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    lora = train(flow, latents, steps=3, condition=seen, learning_rate=0.05)[0]
    assert (lora.facts.objective, lora.facts.condition) == ("flow", "image")
    loaded, info = node("D2FLoadLora").execute(build(flow=True), "none", 1.0, lora).result[:2]
    assert host.widened(loaded) and "image condition added; trained on a flow matching model" in info
    images = [host.with_condition(one, seen[:2]) for one in conditioning]
    others = [host.with_condition(one, seen[2:4]) for one in conditioning]
    one, other = drawn(host, loaded, images), drawn(host, loaded, others)
    assert torch.isfinite(one).all() and difference(one, other) > 1e-2
    with pytest.raises(ValueError, match="takes an image condition, but 'positive' has none"):
        drawn(host, loaded, conditioning)


def test_a_transformer_takes_no_image_condition(host, flow_models, build):
    for kind in ("sd3", "auraflow", "flux"):
        model = flow_models.make(kind, build)
        with pytest.raises(ValueError, match=f"{type(model.model).__name__} has no UNet whose first layer"):
            host.widen(model)


def test_texts_of_different_lengths(host, part, flow_models, build):
    """Where texts and image attend to each other, a repeated text would be another one."""
    join = part("network.conditionings").join
    for kind, calls in (("unet", 1), ("sd3", 2)):
        flow, shape = flow_models.make(kind, build), (flow_models.SHAPES[kind][0], 8, 8)
        with host.training(flow) as network, torch.no_grad():
            long, short = (network.condition(flow_models.conditionings(kind, tokens)[0], shape) for tokens in (14, 7))
            x = torch.randn(2, *shape, generator=torch.manual_seed(0))
            t = network.alignment.timestep(torch.tensor([0.4, 0.4], dtype=torch.float64))
            joined = join([long, short], network.cross_attention)
            assert (1 if isinstance(joined, dict) else len(joined)) == calls
            both = network(x, t, joined)
            alone = torch.cat([network(x[:1], t[:1], long), network(x[1:], t[1:], short)])
        assert difference(both, alone) < 1e-5


# Continuous diffusion


@pytest.mark.parametrize("objective", ["diff2flow", "diffusion"])
@pytest.mark.parametrize("node_and_values", [
    ("ModelSamplingContinuousEDM", "edm", 120.0, 0.002),
    ("ModelSamplingContinuousV", "v_prediction", 500.0, 0.03),
], ids=["edm", "continuous v"])  # fmt: skip
def test_a_lora_over_a_continuous_schedule(host, node, build, train, stock, conditioning, node_and_values, objective):
    name, *values = node_and_values

    def model():
        return stock("model_advanced", name)().patch(build("EPS"), *values)[0]

    lora = train(model(), steps=4, learning_rate=0.05, objective=objective)[0]
    assert (lora.facts.objective, lora.facts.prediction) == (objective, "edm" if "EDM" in name else "v")
    ours = node("D2FLoadLora").execute(model(), "none", 1.0, lora).result[0]
    theirs = stock("train", "LoraModelLoader").execute(model(), lora, 1.0).result[0]
    assert host.is_converted(ours) is (objective == "diff2flow")
    ve = torch.tensor([20.0, 5.0, 1.0, 0.2, 0.0])
    levels = ve / (1 + ve) if host.is_converted(ours) else ve
    stock_latents = drawn(host, theirs, conditioning, ve.tolist())
    assert difference(drawn(host, ours, conditioning, levels.tolist()), stock_latents) < 1e-4
    assert difference(drawn(host, model(), conditioning, ve.tolist()), stock_latents) > 1e-3
    plain = build("EPS")
    with pytest.raises(ValueError, match="-prediction, but this one has eps-prediction"):
        node("D2FLoadLora").execute(plain, "none", 1.0, lora)


def test_naive_fm_needs_a_table(build, train):
    with pytest.raises(ValueError, match="naive_fm counts flow time by the timesteps of a table"):
        train(build("EDM"), objective="naive_fm")


def test_other_models_are_refused_in_the_trainers_name(build, train, fingerprint):
    model = build("STABLE_CASCADE")
    mark = fingerprint(model)
    with pytest.raises(ValueError, match=r"whose timesteps 'LoRA Trainer \(Diff2Flow\)' cannot count"):
        train(model)
    assert fingerprint(model) == mark


@pytest.mark.parametrize("model_type", ["FLOW", "EDM"])
def test_the_dynamic_patcher_gives_the_same_lora(dynamic, build, train, same, model_type):
    loras = [train(make(model_type), run_name=f"run_{i}", steps=2)[0] for i, make in enumerate((build, dynamic))]
    assert same(*loras)


def test_half_precision(flow_models, build, train):
    """In bfloat16, timesteps reach the network in float32 as in the sampler; the loss stays finite."""
    for kind in ("sd3", "flux"):
        channels = flow_models.SHAPES[kind][0]
        latents = torch.randn(2, channels, 8, 8, generator=torch.manual_seed(0))
        text = flow_models.conditionings(kind)[0]
        losses = train(flow_models.make(kind, build), latents, text, steps=2, precision="bf16", run_name=kind)[1][
            "loss"
        ]
        assert all(torch.isfinite(torch.tensor(losses)))
