"""Saving a converted model saves the network: true prediction type, the same weights, no trace of the pack."""

import pytest
import torch


@pytest.fixture
def save(stock, tmp_path):
    """`save(model)` -> (tensors, metadata) of the file that CheckpointSave's own function writes."""

    def run(model, name="model"):
        from safetensors import safe_open

        stock("model_merging", "save_checkpoint")(model, filename_prefix=name, output_dir=str(tmp_path))
        with safe_open(next(tmp_path.glob(f"{name}_*.safetensors")), "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118

    return run


@pytest.mark.parametrize("model_type, key", [("EPS", "epsilon"), ("V_PREDICTION", "v")])
def test_the_file_is_that_of_the_unconverted_model(host, build, save, model_type, key):
    model = build(model_type)
    plain, plain_metadata = save(model, "plain")
    tensors, metadata = save(host.convert(model, "noise", 3.0), "converted")
    assert tensors.keys() == plain.keys()
    assert all(torch.equal(tensors[name], plain[name]) for name in plain)
    assert metadata == plain_metadata
    assert metadata["modelspec.predict_key"] == key
    assert ("v_pred" in tensors) is (key == "v")
    assert not [name for name in tensors if "model_sampling" in name or "sigmas" in name]


def test_zero_terminal_snr_is_saved_with_a_rescaled_model(host, build, stock_sampling, save):
    """The file has to reopen with the schedule that it was used with: CheckpointSave asks the schedule itself."""
    rescaled = stock_sampling(build("V_PREDICTION"), "v_prediction", True)
    tensors, _ = save(host.convert(rescaled))
    assert "ztsnr" in tensors
    plain, _ = save(host.convert(build("V_PREDICTION")), "plain")
    assert "ztsnr" not in plain


def test_state_dict_after_sampling(host, eps_model, sample, table_levels):
    before = {name: tensor.clone() for name, tensor in eps_model.model_state_dict().items()}
    converted = host.convert(eps_model)
    ve = table_levels(eps_model, 3)
    sample(converted, ve / (1 + ve))
    for model in (converted, eps_model):
        after = {name: x for name, x in model.model_state_dict().items() if not name.startswith("model_sampling.")}
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
        assert {name for name in before if not name.startswith("model_sampling.")} == after.keys()
    assert eps_model.model.model_type.name == "EPS"


def test_a_merged_model_with_a_lora_is_saved_with_its_patch(host, eps_model, save):
    key = "diffusion_model.time_embed.0.weight"
    before = eps_model.model_state_dict()[key].clone()
    patched = host.convert(eps_model)
    patched.add_patches({key: (torch.ones_like(before),)}, 0.5)
    tensors, _ = save(patched)
    expected = before + 0.5
    assert torch.allclose(tensors["model.diffusion_model.time_embed.0.weight"], expected, atol=1e-6)


def test_the_stock_merge_works_on_converted_models(host, build, stock, sample, table_levels):
    """ModelMergeSimple of a converted model keeps the conversion of its first input."""
    one, two = build("EPS"), build("EPS")
    merge = stock("model_merging", "ModelMergeSimple")().merge
    ve = table_levels(one, 3)
    before = sample(merge(one, two, 0.5)[0], ve)
    after = sample(merge(host.convert(one), host.convert(two), 0.5)[0], ve / (1 + ve))
    assert (before - after).abs().max() < 1e-4 * (before.max() - before.min())
