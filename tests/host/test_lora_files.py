"""LoRA files in a real host: the stock loaders and our own nodes."""

import dataclasses
import importlib
import logging
import os
from pathlib import Path

import pytest
import torch

from d2f_core.adapter import attached
from d2f_core.lora import AdapterSettings, make_adapters
from diff2flow_kit.d2f_data.fingerprints import schedule_fingerprint

# Fused weights are rounded once more than a sum of two layers is: float32 noise through a small UNet.
SAME = 1e-5


@pytest.fixture(scope="session")
def files(pack):
    """The pack's `nodes.host.files`."""
    return importlib.import_module(f"{pack.__name__}.nodes.host.lora")


@pytest.fixture(scope="session")
def lora_file(pack):
    """The pack's `d2f_data.lora_file`."""
    return importlib.import_module(f"{pack.__name__}.d2f_data.files.lora_file")


@pytest.fixture(params=["EPS", "V_PREDICTION"])
def model(build, request):
    return build(request.param)


@pytest.fixture
def make_lora(host, files, lora_file):
    """`make_lora(model)` -> adapters with random weights, and the LORA_MODEL with them."""

    def make(model, objective="diff2flow", targets="all", full_ends=True, kind="lora", **facts):
        network = model.model.diffusion_model
        generator = torch.Generator().manual_seed(5)
        adapters = make_adapters(
            network,
            AdapterSettings(targets, rank=3, alpha=1.5, full_ends=full_ends),
            generator,
            host.ADAPTER_KINDS[kind],
        )
        for adapter in adapters.values():
            adapter.eval()
            for parameter in (p for p in adapter.parameters() if p.requires_grad):
                size = 0.5 / max(1, parameter[0].numel()) ** 0.5
                parameter.data.normal_(0, size, generator=generator)
        alignment = host.read_alignment(model)
        settings = {
            "objective": objective,
            "prediction": alignment.prediction,
            "schedule": schedule_fingerprint(alignment.schedule),
            "start": "t_min",
            "shift": 1.0,
            "base": "",
            "base_model": host.model_name(model),
            "steps": 500,
            "rank": 3,
            "alpha": 1.5,
            "kind": kind,
            **facts,
        }
        tensors = lora_file.lora_tensors(adapters, files.lora_names(model))
        return adapters, lora_file.LoraModel(tensors, lora_file.LoraFacts(**settings))

    return make


@pytest.fixture
def output_folder(comfy, tmp_path):
    """The host's output folder; its LoRAs are searched, as main.py arranges it."""
    import folder_paths

    before, loras = folder_paths.get_output_directory(), folder_paths.folder_names_and_paths["loras"]
    folder_paths.set_output_directory(str(tmp_path))
    folder_paths.folder_names_and_paths["loras"] = ([*loras[0], str(tmp_path / "loras")], loras[1])
    yield tmp_path
    folder_paths.set_output_directory(before)
    folder_paths.folder_names_and_paths["loras"] = loras


@pytest.fixture
def one_step(sample, table_levels):
    """`one_step(model)` -> what one Euler step makes of noise: a linear function of one model output."""
    return lambda model: sample(model, table_levels(model, 3)[[0, -1]], cfg=1.0)


def apart(one, two):
    """Largest difference, relative to the range."""
    return float((one - two).abs().max() / (one.max() - one.min()))


def flow_sigmas(model, table_levels):
    ve = table_levels(model, 6)
    return ve / (1 + ve)


@pytest.mark.parametrize("kind", ["lora", "lokr", "loha", "dora", "oft"])
def test_the_stock_loader_gives_the_outputs_of_the_adapters(
    lora_file, model, make_lora, one_step, tmp_path, caplog, kind
):
    import comfy.sd
    import comfy.utils

    adapters, lora = make_lora(model, kind=kind)
    lora_file.save_lora(tmp_path / "x.safetensors", lora, dtype="fp32")
    assert lora_file.load_lora(tmp_path / "x.safetensors").facts.kind == kind
    loaded = comfy.utils.load_torch_file(str(tmp_path / "x.safetensors"), safe_load=True)
    with caplog.at_level(logging.WARNING):
        patched, _ = comfy.sd.load_lora_for_models(model, None, loaded, 1.0, 0)
        stock = one_step(patched)
    assert not [record for record in caplog.records if "oaded" in record.message.lower() or "ERROR" in record.message]
    plain = one_step(model)
    with attached(model.model.diffusion_model, adapters):
        ours = one_step(model)
    assert apart(ours, stock) < SAME
    assert apart(plain, stock) > 1000 * SAME


@pytest.mark.parametrize("kind", ["diff", "diff_b", "alpha", "lora_down.weight"])
def test_every_kind_of_tensor_matters(comfy, build, make_lora, one_step, kind):
    """The test above would notice if one of them were lost."""
    import comfy.sd

    model = build("EPS")
    _, lora = make_lora(model)
    whole, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    halved = {key: tensor / 2 if key.endswith("." + kind) else tensor for key, tensor in lora.items()}
    other, _ = comfy.sd.load_lora_for_models(model, None, halved, 1.0, 0)
    assert apart(one_step(whole), one_step(other)) > 100 * SAME


def test_saved_by_our_node_and_opened_by_the_stock_loader(node, model, make_lora, output_folder, sample, table_levels):
    """The stock sampler on a model out of LoraLoaderModelOnly gives what our loader with a conversion gives."""
    import nodes

    adapters, lora = make_lora(model)
    out = node("D2FSaveLora").execute(lora, "diff2flow/mine", "fp32", 500)
    path = output_folder / "loras" / "diff2flow" / "mine_500_steps_00001.safetensors"
    assert out.result == (str(path),) and path.is_file()
    assert out.ui == {"text": [str(path)], "loras": ["diff2flow/mine_500_steps_00001.safetensors"]}
    name = os.path.join("diff2flow", path.name)
    levels = table_levels(model, 6)
    stock = sample(nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, 1.0)[0], levels)
    assert name in node("D2FLoadLora").define_schema().inputs[1].options
    loaded, info = node("D2FLoadLora").execute(model, name, 1.0).result[:2]
    ours = sample(loaded, flow_sigmas(model, table_levels))
    with attached(model.model.diffusion_model, adapters):
        hooked = sample(model, levels)
    assert apart(stock, hooked) < 10 * SAME  # six steps with CFG 3
    assert apart(stock, ours) < 10 * SAME
    assert apart(stock, sample(model, levels)) > 1000 * SAME
    assert "converted to flow matching: start t_min" in info and "diff2flow, 500 steps" in info


def test_the_stock_nodes_of_lora_models_take_ours(model, make_lora, one_step, output_folder, lora_file):
    adapters, lora = make_lora(model)
    train = importlib.import_module("comfy_extras.nodes_train")
    patched = train.LoraModelLoader.execute(model, lora, 1.0).result[0]
    with attached(model.model.diffusion_model, adapters):
        hooked = one_step(model)
    assert apart(hooked, one_step(patched)) < SAME
    train.SaveLoRA.execute(lora, "loras/stock", 7)
    [path] = (output_folder / "loras").glob("stock_7_steps_*.safetensors")
    again = lora_file.load_lora(path)
    assert again.facts is None and all(torch.equal(again[key], tensor) for key, tensor in lora.items())


def test_saving_again_takes_the_next_number_and_warns_without_facts(
    node, eps_model, make_lora, output_folder, lora_file, caplog
):
    save = node("D2FSaveLora").execute
    _, lora = make_lora(eps_model)
    first = Path(save(lora, "mine", "fp16").result[0])
    content = first.read_bytes()
    assert not caplog.records
    paths = [Path(save(dict(lora), "mine.safetensors", "bf16").result[0]) for _ in range(2)]
    assert [path.name for path in (first, *paths)] == [f"mine_0000{i}.safetensors" for i in (1, 2, 3)]
    assert first.read_bytes() == content
    dtypes = [{tensor.dtype for tensor in lora_file.load_lora(path).values()} for path in (first, paths[0])]
    assert dtypes == [{torch.float16, torch.float32}, {torch.bfloat16, torch.float32}]  # alphas are float32
    assert "has no metadata of its training" in caplog.text


@pytest.mark.parametrize("name", ["", "../x", "/abs", "a\\b", "nul", "what?"])
def test_bad_names_are_refused(node, eps_model, make_lora, output_folder, name):
    with pytest.raises(ValueError, match="the LoRA's file name"):
        node("D2FSaveLora").execute(make_lora(eps_model)[1], name, "fp16")
    assert not list(output_folder.rglob("*.safetensors"))


@pytest.fixture
def load(node):
    """`load(model, lora)` -> MODEL and info of our loader, with the LoRA connected."""
    return lambda model, lora, strength=1.0: node("D2FLoadLora").execute(model, "none", strength, lora).result[:2]


@pytest.mark.parametrize("objective", ["diff2flow", "naive_fm", "diffusion"])
def test_the_model_is_converted_as_the_lora_was_trained(host, build, make_lora, load, objective):
    model = build("V_PREDICTION")
    _, lora = make_lora(model, objective, start="noise", shift=2.5)
    loaded, info = load(model, lora)
    assert host.flow_settings(loaded) == (None if objective == "diffusion" else ("noise", 2.5))
    assert not host.is_converted(model) and objective in info
    naive = "naive" in type(getattr(host.sampling_of(loaded), "alignment", None)).__name__.lower()
    assert naive is (objective == "naive_fm")


def test_the_strength_scales_the_lora(build, make_lora, load, sample, table_levels):
    model = build("EPS")
    levels = flow_sigmas(model, table_levels)[[0, -1]]
    adapters, lora = make_lora(model, targets="linear:*to_q")
    results = {strength: sample(load(model, lora, strength)[0], levels, cfg=1.0) for strength in (0.0, 0.5, 1.0)}
    for adapter in adapters.values():
        for name, parameter in adapter.named_parameters():
            parameter.data *= 1 if name == "down" else 0.5
    with attached(model.model.diffusion_model, adapters):
        half = sample(load(model, lora, 0.0)[0], levels, cfg=1.0)
    assert apart(results[0.5], half) < SAME
    assert apart(results[0.0], results[1.0]) > 100 * SAME


def test_a_converted_model_keeps_its_conversion(host, build, make_lora, load, caplog, on_node):
    model = build("EPS")
    _, lora = make_lora(model, start="noise", shift=2.0)
    loaded, info = load(host.convert(model, "noise", 2.0), lora)
    assert host.flow_settings(loaded) == ("noise", 2.0) and "kept" in info
    assert loaded.patches and not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert on_node == []
    loaded, info = load(host.convert(model), lora)
    assert host.flow_settings(loaded) == ("t_min", 1.0)
    assert "trained with start noise and shift 2, but the model was converted with start t_min and shift 1" in info
    assert "trained with start noise" in caplog.text and "trained with start noise" in on_node[-1]
    with pytest.raises(ValueError, match="naive_fm, which needs a conversion of its own"):
        load(host.convert(model), make_lora(model, "naive_fm")[1])
    assert "naive_fm, which needs a conversion of its own" in on_node[-1]


def test_the_base_models_prediction_must_match(build, make_lora, load):
    _, lora = make_lora(build("EPS"))
    with pytest.raises(ValueError, match=r"trained on a model with eps-prediction, but this one has v-prediction"):
        load(build("V_PREDICTION"), lora)


def test_another_schedule_and_another_base_are_said_on_the_node(build, make_lora, load, stock_sampling, on_node):
    model = build("V_PREDICTION")
    _, lora = make_lora(model, base_model="SDXL")
    _, info = load(stock_sampling(model, "v_prediction", True), lora)
    said = "\n".join(on_node)
    assert "another noise schedule" in said and "another noise schedule" in info
    assert "trained on SDXL, used on Config" in said


def test_a_lora_without_facts_is_applied_and_says_so(host, build, make_lora, load, one_step):
    model = build("EPS")
    adapters, lora = make_lora(model)
    loaded, info = load(model, dict(lora))
    assert not host.is_converted(loaded) and "not a Diff2Flow LoRA" in info
    with attached(model.model.diffusion_model, adapters):
        hooked = one_step(model)
    assert apart(hooked, one_step(loaded)) < SAME


def test_a_lora_of_the_stock_trainer_is_applied(host, build, load, one_step):
    """Its names have dots, its convolutions are flat."""
    model = build("EPS")
    lora = {
        "diffusion_model.input_blocks.0.0.lora_up.weight": torch.randn(32, 2),
        "diffusion_model.input_blocks.0.0.lora_down.weight": torch.randn(2, 36),
        "diffusion_model.input_blocks.0.0.alpha": torch.tensor(2.0),
    }
    assert apart(one_step(model), one_step(load(model, lora)[0])) > 100 * SAME


@pytest.mark.parametrize(
    "shapes",
    [
        {
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight": (32, 2),
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight": (2, 32),
        },
        {"lora_unet_conv_in.lora_up.weight": (32, 2, 1, 1), "lora_unet_conv_in.lora_down.weight": (2, 8, 3, 3)},
    ],
    ids=["diffusers", "widened"],
)
def test_other_layouts_of_the_host_are_applied(build, load, shapes, caplog):
    """Old names of diffusers, and a first convolution for more channels than the model has."""
    lora = {key: torch.randn(shape) for key, shape in shapes.items()}
    if "lora_unet_conv_in.lora_up.weight" in lora:
        lora["lora_unet_conv_in.reshape_weight"] = torch.tensor([32, 8, 3, 3])
    loaded, _ = load(build("EPS"), lora)
    assert len(loaded.patches) == 1 and not caplog.records


def test_a_lora_for_another_model_is_refused(build, make_lora, load, caplog):
    model = build("EPS")
    _, lora = make_lora(model)
    alien = {key.replace("lora_unet_", "lora_te_text_model_"): tensor for key, tensor in lora.items()}
    with pytest.raises(ValueError, match=r"no layer that BaseModel has \(lora_te_text_model_\w+"):
        load(model, alien)
    name = next(key for key in lora if key.endswith("attn2_to_k.lora_down.weight"))
    with pytest.raises(ValueError, match=r"1 layers of this LoRA have other sizes .*attn2_to_k"):
        load(model, {**lora, name: torch.zeros(3, 24)})
    assert not caplog.records
    loaded, _ = load(model, {**lora, "lora_te_a.alpha": torch.tensor(1.0)})
    assert loaded.patches and "1 of" in caplog.text and "lora_te_a.alpha" in caplog.text


def test_no_choice_and_a_missing_file_are_named(node, eps_model, output_folder):
    load = node("D2FLoadLora").execute
    with pytest.raises(ValueError, match="pick a file, or connect"):
        load(eps_model, "none", 1.0)
    with pytest.raises(ValueError, match=r"no LoRA 'gone\.safetensors' in .*loras"):
        load(eps_model, "gone.safetensors", 1.0)


def test_a_file_that_is_saved_anew_is_read_again(node, eps_model, make_lora, output_folder, lora_file):
    """The connected LoRA wins over the file, and the file's time makes the node run again."""
    cls = node("D2FLoadLora")
    _, lora = make_lora(eps_model)
    path = output_folder / "loras" / "x.safetensors"
    lora_file.save_lora(path, lora)
    before = cls.fingerprint_inputs(lora="x.safetensors")
    assert before == cls.fingerprint_inputs(lora="x.safetensors") != cls.fingerprint_inputs()
    other = lora_file.LoraModel(lora, dataclasses.replace(lora.facts, steps=501))
    lora_file.save_lora(path, other)
    assert cls.fingerprint_inputs(lora="x.safetensors") != before
    assert "501 steps" in cls.execute(eps_model, "x.safetensors", 1.0).result[1]
    assert "500 steps" in cls.execute(eps_model, "x.safetensors", 1.0, lora).result[1]


def test_the_shared_model_is_left_as_it_was(build, make_lora, load, fingerprint):
    model = build("EPS")
    before = fingerprint(model)
    load(model, make_lora(model)[1])
    assert fingerprint(model) == before


def test_folders(host, output_folder):
    assert host.lora_folder() == output_folder / "loras" and host.training_folder() == output_folder / "diff2flow"
    (output_folder / "loras").mkdir()
    for name in ("a.safetensors", "b.pt", "c.sft"):
        (output_folder / "loras" / name).touch()
    assert {"a.safetensors", "c.sft"} <= set(host.lora_files()) and "b.pt" not in host.lora_files()
