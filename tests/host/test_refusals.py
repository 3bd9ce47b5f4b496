"""Models that cannot be converted are refused: the message names the model, what it is and the remedy."""

import pytest


def refused(host, model, *words):
    with pytest.raises(ValueError) as error:
        host.convert(model)
    for word in ("Convert to Flow Matching", type(model.model).__name__, *words):
        assert word in str(error.value), f"{word!r} is not in {error.value}"


@pytest.mark.parametrize("model_type, words", {
    "EDM": ["ModelSamplingContinuousEDM", "SD1.5"],
    "V_PREDICTION_CONTINUOUS": ["ModelSamplingContinuousV", "SD1.5"],
    "STABLE_CASCADE": ["StableCascadeSampling", "SD1.5"],
    "V_PREDICTION_EDM": ["ModelSamplingContinuousEDM", "SD1.5"],
    "FLOW": ["flow matching model as it is", "leave the node out"],
    "FLUX": ["flow matching model as it is", "leave the node out"],
    "FLOW_COSMOS": ["ModelSamplingCosmosRFlow", "SD1.5"],
    "IMG_TO_IMG": ["IMG_TO_IMG"],
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
    ("lcm", ["ModelSamplingDiscreteDistilled"]),
    ("img_to_img", ["IMG_TO_IMG"]),
    ("img_to_img_flow", ["flow matching model"]),
])  # fmt: skip
def test_stock_patches_that_are_no_plain_diffusion(host, eps_model, stock_sampling, kind, words):
    refused(host, stock_sampling(eps_model, kind), *words)


@pytest.mark.parametrize("sampling", ["edm", "edm_playground_v2.5", "eps", "v_prediction"])
def test_continuous_edm_patches(host, eps_model, stock, sampling):
    model = stock("model_advanced", "ModelSamplingContinuousEDM")().patch(eps_model, sampling, 120.0, 0.002)[0]
    refused(host, model, "ModelSamplingContinuousEDM")


def test_continuous_v_patch(host, eps_model, stock):
    model = stock("model_advanced", "ModelSamplingContinuousV")().patch(eps_model, "v_prediction", 500.0, 0.03)[0]
    refused(host, model, "ModelSamplingContinuousV")


def test_what_is_converted_already(host, eps_model):
    refused(host, host.convert(eps_model), "before", "remove the second conversion")


def test_a_flow_patch_on_a_diffusion_model(host, eps_model, stock):
    refused(host, stock("model_advanced", "ModelSamplingSD3")().patch(eps_model, 3.0)[0], "flow matching model")


def test_an_override_does_not_let_another_schedule_in(host, build):
    with pytest.raises(ValueError, match="ModelSamplingContinuousEDM"):
        host.convert(build("EDM"), prediction="v")


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
