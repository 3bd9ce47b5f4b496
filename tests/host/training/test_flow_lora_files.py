"""Save LoRA on native flow matching models: what the file says, and that the stock Load LoRA samples it the same."""

import json
import os

import pytest
import torch

# The kind of model, and what the file calls it; the UNet is an eps model by its checkpoint, behind ModelSamplingSD3.
MODELS = {"unet": "Config", "sd3": "SD3", "auraflow": "AuraFlow", "flux": "Flux"}


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


@pytest.fixture
def loaded(flow_models, build, kind):
    """A new MODEL as the loader gives it."""
    return lambda: build("EPS") if kind == "unet" else flow_models.make(kind, build)


@pytest.fixture
def shifted(stock, kind):
    """`shifted(model, 3.0)` -> the MODEL behind ModelSamplingSD3; of other kinds, as it is."""
    patch = stock("model_advanced", "ModelSamplingSD3")().patch
    return lambda model, shift: patch(model, shift)[0] if kind == "unet" else model


@pytest.fixture
def learned(flow_models, kind, loaded, shifted, train):
    """The trainer's LORA_MODEL, trained behind a shift of 3."""
    channels = flow_models.SHAPES[kind][0]
    items = torch.randn(3, channels, 8, 8, generator=torch.Generator().manual_seed(5))
    model, texts = shifted(loaded(), 3.0), flow_models.conditionings(kind)
    return train(model, items, texts[0], steps=3, learning_rate=0.05, alpha=1.5, targets="all")[0]


@pytest.fixture
def file(node, learned, output, monkeypatch):
    """The file of Save LoRA, in a folder where loaders look."""
    import folder_paths

    kinds = folder_paths.folder_names_and_paths["loras"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(output / "loras")], kinds))
    path = node("D2FSaveLora").execute(learned, "flow/mine", "fp32", 3).result[0]
    assert path == str(output / "loras" / "flow" / "mine_3_steps_00001.safetensors")
    return path


def read(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        return opened.metadata(), {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118


def test_the_file_says_that_it_is_of_a_flow_model(host, file, learned, loaded, shifted, kind):
    metadata, tensors = read(file)
    own = {key.removeprefix("diff2flow."): value for key, value in metadata.items() if key.startswith("diff2flow.")}
    assert (own["objective"], own["prediction"], own["start"]) == ("flow", "flow", "noise")
    assert float(own["shift"]) == host.flow_settings(shifted(loaded(), 3.0))[1] and own["base_model"] == MODELS[kind]
    assert (own["steps"], own["rank"], own["alpha"], own["kind"]) == ("3", "2", "1.5", "lora")
    assert json.loads(own["training"])["objective"] == "flow"
    # What other programs read: no name for what the network returns, which is neither eps nor v.
    assert metadata["ss_v_parameterization"] == "False" and "modelspec.prediction_type" not in metadata
    assert metadata["ss_network_module"] == "networks.lora" and metadata["ss_network_dim"] == "2"
    assert metadata["ss_training_comment"].endswith("objective flow")
    assert tensors.keys() == learned.keys() and all(torch.equal(tensors[key], learned[key]) for key in tensors)


def test_its_keys_are_those_of_kohya(file, loaded):
    """A lora_down, lora_up and alpha for each layer, under a name that the host knows for a weight of these sizes."""
    import comfy.lora

    _, tensors = read(file)
    layers, model = {key.split(".")[0] for key in tensors}, loaded().model
    known, weights = comfy.lora.model_lora_keys_unet(model, {}), model.state_dict()
    ends = ("alpha", "lora_down.weight", "lora_up.weight")
    assert layers and tensors.keys() == {f"{layer}.{end}" for layer in layers for end in ends}
    assert len({known[layer] for layer in layers}) == len(layers) and all(
        one.startswith("lora_unet_") for one in layers
    )
    for layer in layers:
        out, wide = weights[known[layer]].shape[:2]
        down, up = (tensors[f"{layer}.{end}"].shape for end in ends[1:])
        assert (down[:2], up[:2]) == ((2, wide), (out, 2)), layer


def test_the_stock_load_lora_samples_it_the_same(host, node, file, flow_models, loaded, shifted, kind):
    """Before ModelSamplingSD3 or behind it, at another shift than that of the training."""
    import comfy.samplers

    import nodes

    name, stock = os.path.join("flow", os.path.basename(file)), nodes.LoraLoaderModelOnly().load_lora_model_only
    models = {
        "ours": node("D2FLoadLora").execute(shifted(loaded(), 6.0), name, 1.0).result[0],
        "stock, before": shifted(stock(loaded(), name, 1.0)[0], 6.0),
        "stock, behind": stock(shifted(loaded(), 6.0), name, 1.0)[0],
        "none": shifted(loaded(), 6.0),
    }
    texts, empty = flow_models.conditionings(kind), {"samples": torch.zeros(2, flow_models.SHAPES[kind][0], 8, 8)}
    euler, levels = comfy.samplers.ksampler("euler"), host.stock_sigmas(models["ours"], "simple", 4)
    drawn = {key: host.sample(one, empty, *texts, 3.0, euler, levels, 42)["samples"] for key, one in models.items()}
    reach = drawn["ours"].max() - drawn["ours"].min()
    apart = {key: float((one - drawn["ours"]).abs().max() / reach) for key, one in drawn.items()}
    assert apart["stock, before"] < 1e-5 and apart["stock, behind"] < 1e-5 and apart["none"] > 1e-3, apart
