"""What nodes put on a MODEL before the trainer: each of the host's acts as in the sampler, or is refused by name."""

import pytest
import torch

# Act inside of a call of the network; all others on guidance, on samplers or on other networks.
IN_CALLS = [
    "FreeU", "FreeU_V2", "HyperTile", "PatchModelAddDownscale", "TomePatchModel", "UNetSelfAttentionMultiply",
    "UNetCrossAttentionMultiply",
]  # fmt: skip
SAME_CALL = [
    "APG", "CFGNorm", "CFGOverride", "CFGZeroStar", "ChromaRadianceOptions", "ContextWindowsManualNode",
    "DifferentialDiffusion", "EasyCacheNode", "EpsilonScaling", "FreSca", "LTXVContextWindowsNode", "LazyCacheNode",
    "Mahiro", "ModelComputeDtype", "ModelSamplingDiscrete", "MultiGPUCFGSplitNode", "NAGuidance",
    "PerturbedAttentionGuidance", "RenormCFG", "RescaleCFG", "ScaleROPE", "SelectModelDeviceNode",
    "SelfAttentionGuidance", "SkipLayerGuidanceDiT", "SkipLayerGuidanceDiTSimple", "SkipLayerGuidanceSD3", "TCFG",
    "TemporalScoreRescaling", "UNetTemporalAttentionMultiply", "VideoLinearCFGGuidance",
    "VideoTriangleCFGGuidance", "WanContextWindowsManualNode", "wanBlockSwap",
]  # fmt: skip
COMPILES = "TorchCompileModel"  # tracing takes most of a minute
REFUSED = {
    "FluxKVCache": r"cannot be trained with what nodes have put on it \(FluxKVCache.*to the model before those",
    "ModelSamplingStableCascade": r"whose timesteps 'LoRA Trainer \(Diff2Flow\)' cannot count",
}
# Make another kind of model of it.
OTHER_KINDS = [
    "ModelSamplingAuraFlow", "ModelSamplingFlux", "ModelSamplingLTXV", "ModelSamplingSD3", "MiniMaxH3SigmaShift",
    "ModelSamplingContinuousEDM", "ModelSamplingContinuousV",
]  # fmt: skip
# Refuse the small model themselves, or need a file.
NOT_HERE = {"HiDreamO1PatchSeamSmoothing", "HypernetworkLoader", "LoraLoaderBypassModelOnly", "ModelNoiseScale"}
# Sample one item alone, whatever the model.
ONE_ITEM = {"RenormCFG", "TemporalScoreRescaling"}
LEVELS = (0.9, 0.3)  # s


@pytest.fixture(scope="module")
def nodes(patch_nodes):
    return patch_nodes.find()


@pytest.fixture
def patched(patch_nodes, nodes):
    """`patched(name, model)` -> MODEL out of that node; skips where this ComfyUI has none."""

    def put(name, model):
        if name not in nodes:
            pytest.skip(f"this ComfyUI has no {name}")
        return patch_nodes.put(nodes[name], model)

    return put


@pytest.fixture(scope="module")
def noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def in_training(host, conditioning, noise):
    """`in_training(model)` -> x0 of each level as the network in training predicts it, one batch of both levels."""

    def of(model):
        x = torch.cat([noise] * len(LEVELS))
        t = torch.tensor([1 - s for s in LEVELS for _ in noise], dtype=torch.float64)
        with host.training(model) as network, torch.no_grad():
            network.check_patches((4, 8, 8), network.condition(conditioning[0], (4, 8, 8)))
            condition = network.condition(conditioning[0], (4, 8, 8))
            batch = {name: value.repeat(len(x), 1, 1) for name, value in condition.items()}
            alignment = network.alignment
            torch.manual_seed(3)
            output = network(alignment.to_diffusion(x, t), alignment.timestep(t), batch)
            return alignment.denoised(output, x, t)

    return of


@pytest.fixture
def in_sampling(host, conditioning, noise):
    """`in_sampling(flow)` -> the same from the host's sampler, one level after the other."""
    import comfy.samplers

    def of(flow):
        found = []

        def sampler(denoiser, x, sigmas, extra_args=None, **others):
            model = denoiser.inner_model
            torch.manual_seed(3)
            for s in LEVELS:
                given = [model.conds["positive"]], noise, torch.full((2,), s), extra_args["model_options"]
                found.append(comfy.samplers.calc_cond_batch(model.inner_model, *given)[0])
            return x

        guider = comfy.samplers.CFGGuider(flow)
        guider.set_conds(*conditioning)
        sigmas = torch.tensor([1.0, 0.5, 0.0])
        empty = torch.zeros_like(noise)
        guider.sample(noise.clone(), empty, comfy.samplers.KSAMPLER(sampler), sigmas, disable_pbar=True, seed=0)
        return torch.cat(found)

    return of


def test_every_node_of_the_host_is_on_the_lists(nodes):
    assert not nodes.keys() - {*IN_CALLS, *SAME_CALL, COMPILES, *REFUSED, *OTHER_KINDS, *NOT_HERE}


@pytest.mark.parametrize("name", [*IN_CALLS, *SAME_CALL, pytest.param(COMPILES, marks=pytest.mark.slow)])
def test_the_network_in_training_answers_as_in_the_sampler(
    build, host, patched, in_training, in_sampling, unharmed, name
):
    """Before the conversion and after it; patches that act in a call see one sigma per call, as in the sampler."""
    model = build()
    after = patched(name, host.convert(model, "noise")) if name not in ("ModelSamplingDiscrete",) else None
    first = patched(name, model)
    with unharmed(model if name in ONE_ITEM else first):
        before = in_training(first)
    wanted = in_sampling(host.convert(patched(name, model), "noise") if after is None else after)
    torch.testing.assert_close(before, wanted, rtol=1e-5, atol=3e-5)
    if after is not None:
        torch.testing.assert_close(in_training(after), wanted, rtol=1e-5, atol=3e-5)
    plain = in_training(model)
    assert ((before - plain).abs().max() > 1e-3) == (name in IN_CALLS)


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_models_of_other_kinds_answer_as_in_the_sampler(build, host, patched, in_training, in_sampling, unharmed, name):
    """Flow matching as it is, EDM and continuous v converted or not."""
    model = build()
    with unharmed(model):
        other = patched(name, model)
        wanted = in_sampling(host.as_flow(other, "noise"))
        torch.testing.assert_close(in_training(other), wanted, rtol=1e-5, atol=3e-5)
        torch.testing.assert_close(in_training(host.as_flow(other, "noise")), wanted, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("kind", ["ModelSamplingSD3", "ModelSamplingContinuousEDM"])
def test_patches_with_a_window_act_on_models_of_other_kinds(
    build, host, patched, in_training, in_sampling, kind, monkeypatch
):
    """A call is made at the sigma of its timestep, whatever the shift of the sampler's levels.

    The window ends at s = 0.85 under the shift of 3; a shifted 0.7 would lie in it.
    """
    monkeypatch.setitem(globals(), "LEVELS", (0.9, 0.7))
    other = patched(kind, build())
    patched_too = patched("PatchModelAddDownscale", other)
    for model in (patched_too, host.as_flow(patched_too, "noise")):
        found = in_training(model)
        torch.testing.assert_close(found, in_sampling(host.as_flow(model, "noise")), rtol=1e-5, atol=3e-5)
        assert (found - in_training(other)).abs().max() > 1e-3


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_before_the_first_step(build, patched, train, unharmed, output, name):
    model = build()
    with unharmed(model), pytest.raises(ValueError, match=REFUSED[name]):
        train(patched(name, model))
    assert not list(output.rglob("*.safetensors"))


@pytest.mark.parametrize("recompute", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("patcher", ["plain", "dynamic"])
@pytest.mark.parametrize("name", IN_CALLS)
def test_gradients_are_those_of_finite_differences(
    build, dynamic, host, patched, conditioning, noise, name, patcher, recompute
):
    from diff2flow_kit.d2f_core import AdapterSettings, attached, make_adapters

    model = patched(name, dynamic() if patcher == "dynamic" else build())
    with host.training(model, recompute=recompute) as network:
        generator = torch.Generator().manual_seed(3)
        adapters = make_adapters(network.module, AdapterSettings("all", 2), generator)
        parameters = [p for adapter in adapters.values() for p in adapter.parameters()]
        for parameter in parameters:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        condition = network.condition(conditioning[0], (4, 8, 8))
        batch = {key: value.repeat(2, 1, 1) for key, value in condition.items()}

        def loss():
            torch.manual_seed(5)
            return network(noise.clone(), torch.tensor([900.0, 300.0]), batch).square().mean()

        def moved(step):
            with torch.no_grad():
                for parameter, slope in zip(parameters, slopes):
                    parameter += step * slope / norm
                return float(loss())

        with attached(network.module, adapters):
            with torch.enable_grad():
                slopes = torch.autograd.grad(loss(), parameters)
            norm = sum(float(slope.square().sum()) for slope in slopes) ** 0.5
            up, down = moved(2e-3), moved(-4e-3)
    assert (up - down) / 4e-3 == pytest.approx(norm, rel=2e-3)


def test_a_node_whose_gradient_breaks_is_named(build, train, unharmed):
    model = build()
    patched = model.clone()
    patched.set_model_attn2_patch(lambda q, k, v, options: (q / 0, k, v))
    words = r"what nodes have put on it \(test_a_node.*NaN or infinite.*to the model before those nodes"
    with unharmed(model), pytest.raises(ValueError, match=words):
        train(patched)


def test_a_node_with_weights_of_inference_mode_trains(build, train, same):
    """As hypernetworks have them."""
    model, weight = build(), torch.eye(16) * 1.1
    assert weight.is_inference()
    model.set_model_attn2_patch(lambda q, k, v, options: (q, k @ weight, v))
    assert not same(train(model)[0], train(build(), run_name="plain")[0])


# Bypass LoRAs, object patches


@pytest.fixture
def bypassed(build, train):
    """`bypassed(model, count=1)` -> a clone with LoRAs from 'Load LoRA (Bypass)'."""
    import comfy.sd

    if not hasattr(comfy.sd, "load_bypass_lora_for_models"):
        pytest.skip("this ComfyUI has no bypass LoRAs")
    lora = train(build(), steps=2, learning_rate=0.3, run_name="before", targets="all")[0]
    return lambda model: comfy.sd.load_bypass_lora_for_models(model, None, dict(lora), 1.0, 0)[0]


@pytest.mark.parametrize("patcher", ["plain", "dynamic"])
def test_a_bypass_lora_is_refused_and_leaves_nothing(
    build, dynamic, bypassed, train, same, sample, table_levels, patcher
):
    """Ejecting one leaves a bound `forward` on the layers that all clones share; they train as if it had never been."""
    model = dynamic() if patcher == "dynamic" else build()
    wanted = train(model, run_name="wanted")[0]
    patched = bypassed(model)
    plain = sample(model, table_levels(model, 2))
    assert not torch.equal(sample(patched, table_levels(model, 2)), plain)
    with pytest.raises(ValueError, match=r"LoRA from 'Load LoRA \(Bypass\)'.*with 'Load LoRA' instead"):
        train(patched)
    # Still injected under the dynamic patcher, which loads nothing for training.
    assert same(train(model, run_name="again")[0], wanted)
    assert torch.equal(sample(model, table_levels(model, 2)), plain)
    left = [layer for layer in model.model.diffusion_model.modules() if "forward" in vars(layer)]
    assert left
    assert same(train(model, run_name="after")[0], wanted)


def test_other_injections_are_named(build, train):
    from comfy.patcher_extension import PatcherInjection

    model = build()
    model.set_injections("their_key", [PatcherInjection(lambda patcher: None, lambda patcher: None)])
    with pytest.raises(ValueError, match=r"\(injections 'their_key'\).*remove the node that adds it"):
        train(model)


@pytest.mark.parametrize("patcher", ["plain", "dynamic"])
def test_object_patches_in_the_network_are_those_of_the_model(build, dynamic, in_training, patcher):
    """Whichever clone was loaded before: one with a patch of its own, none, or the same."""
    import comfy.model_management

    model = dynamic() if patcher == "dynamic" else build()
    plain, layer = in_training(model), model.model.diffusion_model.middle_block[1].proj_in
    other = model.clone()
    other.add_object_patch("diffusion_model.middle_block.1.proj_in", torch.nn.Identity())
    changed = in_training(other)
    assert not torch.allclose(changed, plain, atol=1e-3)
    for loaded in (other, model):
        comfy.model_management.load_models_gpu([loaded])
        assert torch.equal(in_training(model), plain) and torch.equal(in_training(other), changed)
    comfy.model_management.load_models_gpu([model])
    assert model.model.diffusion_model.middle_block[1].proj_in is layer


def test_wrappers_around_calls_act(build, in_training):
    import comfy.patcher_extension

    kinds, plain = comfy.patcher_extension.WrappersMP, in_training(build())
    seen = []

    def wrapper(executor, x, timestep, *args, **kwargs):
        seen.append(float(timestep[0]))
        return executor(x, timestep, *args, **kwargs) * 0.5

    for kind in (kinds.APPLY_MODEL, kinds.DIFFUSION_MODEL):
        model = build()
        model.add_wrapper_with_key(kind, "theirs", wrapper)
        assert not torch.allclose(in_training(model), plain, atol=1e-3)
    model = build()
    model.set_model_unet_function_wrapper(
        lambda call, given: 0.5 * call(given["input"], given["timestep"], **given["c"])
    )
    assert not torch.allclose(in_training(model), plain, atol=1e-3)
    # sigma_ve of s = 0.9 and 0.3 around the whole call, timesteps around the network.
    assert seen[3:5] == pytest.approx([9.0, 3 / 7], rel=1e-4) and seen[8] > 900
