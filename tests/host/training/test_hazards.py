"""What a trainer inside of ComfyUI can stumble over: HAZARDS, "Training"."""

import random
import re

import numpy
import pytest
import torch

SETTINGS = {"steps": 2, "targets": "attention_and_conv", "dropout": 0.2}


def test_inference_tensors_are_trained_on(build, train, latents, conditioning, same):
    """Model, latents and captions made under inference mode give the LoRA of those that were not."""
    loras = []
    for inside in (True, False):
        with torch.inference_mode(inside):
            model = build()
            samples, cross = latents.clone(), conditioning[0][0][0].clone()
            mask = torch.ones(1, 8, 8)
        assert model.model.diffusion_model.out[2].weight.is_inference() is inside
        assert samples.is_inference() is cross.is_inference() is inside
        given = [{"samples": samples, "noise_mask": mask}]
        loras.append(train(model, given, [[cross, {}]], run_name=f"inside {inside}", **SETTINGS)[0])
    assert same(*loras)
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in loras[0].values())


@pytest.mark.parametrize("adapter", ["lora", "lokr", "loha", "dora", "oft"])
def test_the_global_generators_are_left_alone(build, train, same, adapter):
    model, loras = build(), []
    for seed in (1, 2):
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()
        settings = {
            "adapter": adapter,
            "checkpointing": True,
            "preview_every": 2 * (adapter == "lora"),
            "run_name": f"{adapter}{seed}",
        }
        loras.append(train(model, **SETTINGS, **settings)[0])
        assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before[:2]
        assert torch.equal(torch.get_rng_state(), before[2])
    assert same(*loras)


@pytest.mark.parametrize(
    "settings",
    [{}, {"dropout": 0.3}, {"precision": "bf16"}, {"adapter": "loha"}, {"adapter": "dora"}, {"adapter": "oft"}],
)
def test_checkpointing_gives_the_same_lora_bit_for_bit(build, train, same, settings):
    model = build()
    one, two = (train(model, checkpointing=on, run_name=str(on), targets="all", **settings)[0] for on in (False, True))
    assert same(one, two)


def test_checkpointing_keeps_less(build, train, around_network):
    """What autograd saves between forward and backward pass, in bytes."""
    kept = {}

    def network(call, network, x):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = call()
        weights = {p.untyped_storage().data_ptr() for p in network.module.parameters()}
        kept[name] = sum(size for place, size in sizes.items() if place not in weights)
        return output

    around_network(network)
    for name in ("plain", "checkpointing"):
        train(build(), steps=1, checkpointing=name == "checkpointing", run_name=name)
    assert kept["checkpointing"] < 0.5 * kept["plain"]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_compute_types(build, train, around_network, unharmed, precision):
    seen = []

    def network(call, network, x):
        handle = network.module.input_blocks[0][0].register_forward_hook(lambda *args: seen.append(args[2].dtype))
        output = call()
        handle.remove()
        return output

    model = build()
    around_network(network)
    with unharmed(model):
        lora, losses = train(model, precision=precision, steps=4)[:2]
    plain = train(model, steps=4, run_name="plain")[1]["loss"]
    assert set(seen[:4]) == {{"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]}
    assert losses["loss"] == pytest.approx(plain, rel=0.03)
    assert {tensor.dtype for tensor in lora.values()} == {torch.float32}


def test_fp16_gradients_are_scaled_and_overflows_left_out(build, train, around_network):
    """The gradient that reaches the network's output is some 2^16 times as large; one that overflows is skipped."""
    sizes = []

    def network(call, network, x):
        output = call()
        output.register_hook(lambda gradient: sizes.append(float(gradient.norm())))
        if len(sizes) == 1 and precision == "fp16":
            output.register_hook(lambda gradient: gradient * float("inf"))
        return output

    around_network(network)
    loras = {}
    for precision in ("fp32", "fp16"):
        loras[precision] = train(build(), precision=precision, steps=2, run_name=precision)[0]
    assert sizes[2] == pytest.approx(sizes[0] * 2**16, rel=0.05)
    ups = [tensor for key, tensor in loras["fp16"].items() if key.endswith("up.weight")]
    assert all(bool(torch.isfinite(up).all()) and bool(up.any()) for up in ups)


def test_a_model_in_half_precision_is_scaled_too(build, train):
    from diff2flow_kit.d2f_data.training import plan

    seen = []
    original = plan.Trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "Trainer", lambda *args: seen.append(original(*args)) or seen[-1])
        train(build(dtype=torch.float16), steps=1)
    assert seen[0].scaler.is_enabled()


def test_in_training_is_set_while_it_trains(build, train, around_network, comfy):
    import comfy.model_management

    seen = []
    around_network(lambda call, network, x: seen.append(comfy.model_management.in_training) or call())
    train(build(), steps=2)
    assert seen == [True, True] and comfy.model_management.in_training is False


@pytest.mark.parametrize("inside", [True, False])
def test_weights_are_shared_and_the_view_is_frozen(build, host, inside):
    with torch.inference_mode(inside):
        model = build()
    theirs = dict(model.model.diffusion_model.named_parameters())
    with host.training(model) as network:
        for name, weight in network.module.named_parameters():
            assert weight.data_ptr() == theirs[name].data_ptr() and weight is not theirs[name]
            assert not weight.requires_grad and not weight.is_inference()
    assert not {id(part) for part in network.module.modules()} & {
        id(part) for part in model.model.diffusion_model.modules()
    }


def test_the_last_step_is_on_disk_before_the_node_returns(build, train, saved, same):
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    lora = train(build())[0]
    (path,) = saved()
    kept = load_lora(path)
    assert kept.facts == lora.facts and kept.facts.steps == 3
    assert same({key: t if key.endswith("alpha") else t.half() for key, t in lora.items()}, dict(kept))


def test_what_the_host_may_print_is_short(build, host, train, part, latents, conditioning):
    model, run, shown = build(), part("training.run").TrainingRun, []
    original = run.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run", lambda self: shown.extend([repr(self), repr(self.items)]) or original(self))
        lora = train(model)[0]
    assert shown == ["<training run my_lora, step 0 of 3>", "<5 training items in 1 shapes>"]
    assert all(len(text) < 200 for text in [*shown, repr(lora)]) and "3 steps" in repr(lora)


@pytest.mark.parametrize(
    "words",
    [
        ("adamw_8bit", "bitsandbytes"),
        ("lion_8bit", "bitsandbytes"),
        ("prodigy", "prodigyopt"),
        ("schedule_free", "schedulefree"),
        ("came", "came_pytorch"),
    ],
)
def test_missing_optimizers_are_named(build, train, unharmed, monkeypatch, output, words):
    import sys

    from diff2flow_kit.d2f_core import install_command

    name, package = words
    for module in (package, *(each for each in sys.modules if each.startswith(f"{package}."))):
        monkeypatch.setitem(sys.modules, module, None)
    model = build()
    command = re.escape(install_command(package))
    said = rf"'{name}' needs the package {package}, which is not installed; .* or run {command}$"
    with unharmed(model), pytest.raises(ValueError, match=said):
        train(model, optimizer=name, learning_rate=1.0)
    assert not list(output.rglob("*"))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"])
def test_rates_rise_in_the_warm_up_and_then_go_their_way(build, train, part, monkeypatch, schedule):
    rates, after = [], part("training.run").TrainingRun._after
    monkeypatch.setattr(
        part("training.run").TrainingRun,
        "_after",
        lambda self, record, clock: rates.append(record.learning_rate) or after(self, record, clock),
    )
    train(build(), steps=7, warmup_steps=2, lr_schedule=schedule)
    assert rates[:3] == pytest.approx([0, 0.005, 0.01])
    rises = sum(a < b for a, b in zip(rates[2:], rates[3:]))
    falls = sum(a > b for a, b in zip(rates[2:], rates[3:]))
    ways = {"constant": (0, 0), "cosine_with_restarts": (2, 2)}  # (rises, falls) of the four steps after the warm-up
    assert (rises, falls) == ways.get(schedule, (0, 4))


def test_a_warm_up_as_long_as_the_run_is_named(build, train, unharmed):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=r"warm-up of 3 steps does not fit a run of 3; use less"):
        train(model, warmup_steps=3)
