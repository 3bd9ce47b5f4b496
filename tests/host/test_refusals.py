"""Models that cannot be converted are refused: the message names the model, what it is and the remedy."""

import pytest


def refused(host, model, *words):
    with pytest.raises(ValueError) as error:
        host.convert(model)
    for word in ("Convert to Flow Matching", type(model.model).__name__, *words):
        assert word in str(error.value), f"{word!r} is not in {error.value}"


@pytest.mark.parametrize("model_type, words", {
    "STABLE_CASCADE": ["StableCascadeSampling", "SD1.5"],
    "FLOW": ["flow matching model as it is"],
    "FLUX": ["flow matching model as it is"],
    "FLOW_COSMOS": ["ModelSamplingCosmosRFlow", "SD1.5"],
    "IMG_TO_IMG": ["IMG_TO_IMG"],
    "V_PREDICTION_DDPM": ["V_PREDICTION_DDPM"],
}.items())  # fmt: skip
def test_other_kinds_of_models(host, build, model_type, words):
    import comfy.model_base

    if model_type not in comfy.model_base.ModelType.__members__:
        pytest.skip(f"this ComfyUI has no {model_type}")
    model = build(model_type)
    before = dict(model.object_patches)
    refused(host, model, *words)
    assert model.object_patches == before


@pytest.mark.parametrize("kind, words", [
    ("lcm", ["ModelSamplingDiscreteDistilled", "remove that node"]),
    ("img_to_img", ["IMG_TO_IMG"]),
    ("img_to_img_flow", ["flow matching model"]),
])  # fmt: skip
def test_stock_patches_that_are_no_plain_diffusion(host, eps_model, stock_sampling, kind, words):
    refused(host, stock_sampling(eps_model, kind), *words)


def test_cosmos_over_edm(host, eps_model, stock):
    model = stock("model_advanced", "ModelSamplingContinuousEDM")().patch(eps_model, "cosmos_rflow", 120.0, 0.002)[0]
    refused(host, model, "ModelSamplingCosmosRFlow")


def test_what_is_converted_already(host, eps_model):
    refused(host, host.convert(eps_model), "before", "remove the second conversion")


def test_a_flow_patch_on_a_diffusion_model(host, eps_model, stock):
    refused(host, stock("model_advanced", "ModelSamplingSD3")().patch(eps_model, 3.0)[0], "flow matching model")


def test_an_override_does_not_let_another_schedule_in(host, build):
    with pytest.raises(ValueError, match="StableCascadeSampling"):
        host.convert(build("STABLE_CASCADE"), prediction="v")


# What a node is given -> words of its refusal; none of them speaks of another node as if it were in the graph.
NODES = {
    "D2FKSampler": "Flow KSampler (Diff2Flow)",
    "D2FTrainLora": "LoRA Trainer (Diff2Flow)",
    "D2FReflowPairs": "Generate Reflow Pairs (Diff2Flow)",
    "D2FTrajectory": "Trajectory Report (Diff2Flow)",
    "D2FLoadLora": "Load LoRA (Diff2Flow)",
    "D2FConvert": "Convert to Flow Matching",
}


def test_the_node_that_refuses_names_itself(host, schemas, build, eps_model, stock_sampling):
    """The names of the nodes are those that their refusals begin to speak of."""
    for node, name in NODES.items():
        assert schemas[node].display_name.removesuffix(" (Diff2Flow)") == name.removesuffix(" (Diff2Flow)")
    for model in (build("STABLE_CASCADE"), stock_sampling(eps_model, "lcm"), stock_sampling(eps_model, "img_to_img")):
        for name in NODES.values():
            for read, given in ((host.as_flow, {"node": name}), (host.alignment_of, {"node": name})):
                with pytest.raises(ValueError) as error:
                    read(model, **given)
                others = [other for other in NODES.values() if other != name and f"'{other}'" in str(error.value)]
                assert f"'{name}'" in str(error.value) and others in ([], ["Convert to Flow Matching"]), error.value


def test_options_out_of_range_are_named(host, eps_model):
    with pytest.raises(ValueError, match=r"unknown start 'middle'.*'t_min', 'noise'"):
        host.convert(eps_model, start="middle")
    with pytest.raises(ValueError, match=r"unknown prediction type 'velocity'.*'eps', 'v', 'x0'"):
        host.convert(eps_model, prediction="velocity")
    with pytest.raises(ValueError, match="shift must be above 0, got 0"):
        host.convert(eps_model, shift=0.0)


def test_an_unknown_output_type_can_be_named_by_the_user(host, eps_model, stock_sampling):
    """A patch of a third party with its own `calculate_denoised`: refused, unless the user says what it is."""
    patched = stock_sampling(eps_model, "eps")
    sampling = host.sampling_of(patched)

    class Unknown(type(sampling)):
        def calculate_denoised(self, sigma, model_output, model_input):
            return model_input

    sampling.__class__ = Unknown
    refused(host, patched, "Unknown", "EPS, V_PREDICTION, X0", "'prediction'")
    assert host.sampling_of(host.convert(patched, prediction="eps")).alignment.prediction == "eps"
