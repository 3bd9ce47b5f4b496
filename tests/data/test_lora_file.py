"""A LoRA's file: kohya's layout, metadata in three dialects, and errors that name the file."""

import copy
import dataclasses
import hashlib
import json
import re

import pytest
import torch
from torch import nn

from d2f_core import OBJECTIVES, PREDICTIONS, ContinuousSchedule, FlowSchedule, NoiseSchedule
from d2f_core.lora import AdapterSettings, make_adapters
from diff2flow_kit.d2f_data.files.atomic import load_tensors, save_tensors
from diff2flow_kit.d2f_data.files.lora_file import (
    LoraFacts,
    LoraModel,
    layer_of,
    load_lora,
    lora_tensors,
    save_lora,
    smallest_dtype,
)
from diff2flow_kit.d2f_data.fingerprints import schedule_fingerprint

FACTS = LoraFacts(
    objective="diff2flow",
    prediction="eps",
    schedule="ab12",
    start="noise",
    shift=1 / 3,
    base="cd34",
    base_model="SD15",
    steps=500,
    rank=2,
    alpha=1.5,
    kind="lora",
    training={"learning_rate": 1e-4, "seed": 7, "optimizer": "AdamW", "flip": True, "pattern": "conv:*", "items": 12},
)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3)
        self.blocks = nn.ModuleList([nn.Linear(6, 8), nn.Conv2d(6, 6, 3, stride=2)])
        self.last = nn.Conv2d(6, 4, 1, bias=False)


@pytest.fixture
def tensors(generator):
    """The keys of random adapters: full first and last convolution, alpha 1.5 at rank 2."""
    settings = AdapterSettings("all", rank=2, alpha=1.5, full_ends=True)
    adapters = make_adapters(Network(), settings, generator)
    for adapter in adapters.values():
        for parameter in adapter.parameters():
            parameter.data.normal_(generator=generator)
    return lora_tensors(adapters, {path: "lora_unet_" + path.replace(".", "_") for path in adapters})


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def saved(tmp_path, tensors):
    """A saved file, in float32."""
    save_lora(tmp_path / "my_lora_00001.safetensors", LoraModel(tensors, FACTS), "My LoRA", "fp32")
    return tmp_path / "my_lora_00001.safetensors"


def test_keys_and_shapes_are_those_of_kohya(tensors):
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == {
        "lora_unet_first.diff": (6, 4, 3, 3),
        "lora_unet_first.diff_b": (6,),
        "lora_unet_blocks_0.lora_down.weight": (2, 6),
        "lora_unet_blocks_0.lora_up.weight": (8, 2),
        "lora_unet_blocks_0.alpha": (),
        "lora_unet_blocks_1.lora_down.weight": (2, 6, 3, 3),
        "lora_unet_blocks_1.lora_up.weight": (6, 2, 1, 1),
        "lora_unet_blocks_1.alpha": (),
        "lora_unet_last.diff": (4, 6, 1, 1),
    }
    assert not any(tensor.requires_grad for tensor in tensors.values())


def test_tensors_and_facts_come_back(saved, tensors):
    lora = load_lora(saved)
    assert lora.facts == FACTS and lora.keys() == tensors.keys()
    assert all(torch.equal(lora[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_weights_are_rounded_and_alphas_and_facts_are_not(tmp_path, tensors, dtype, kind):
    save_lora(
        tmp_path / "x.safetensors",
        LoraModel({**tensors, "lora_unet_a.reshape_weight": torch.tensor([9])}, FACTS),
        dtype=dtype,
    )
    lora = load_lora(tmp_path / "x.safetensors")
    assert lora.facts == FACTS
    for key, tensor in tensors.items():
        expected = tensor if key.endswith(".alpha") else tensor.to(kind)
        assert lora[key].dtype == expected.dtype and torch.equal(lora[key], expected), key
    assert lora["lora_unet_a.reshape_weight"].tolist() == [9]


@pytest.mark.parametrize("field", [one.name for one in dataclasses.fields(LoraFacts)])
def test_every_fact_is_in_the_file(tmp_path, tensors, field):
    other = {
        "objective": "naive_fm",
        "prediction": "v",
        "start": "t_min",
        "kind": "lokr",
        "training": {"seed": 8},
        "condition": "image",
        "dataset": {"trigger": "sks dog"},
    }
    value = other.get(field) or ("x" if isinstance(getattr(FACTS, field), str) else 40)
    facts = dataclasses.replace(FACTS, **{field: value})
    save_lora(tmp_path / "x.safetensors", LoraModel(tensors, facts))
    assert load_lora(tmp_path / "x.safetensors").facts == facts != FACTS


def test_facts_know_the_objectives_and_predictions_of_the_core():
    for objective in OBJECTIVES:
        for prediction in PREDICTIONS:
            dataclasses.replace(FACTS, objective=objective, prediction=prediction)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": "fm"}, "objective 'fm'.*'diff2flow', 'naive_fm', 'diffusion', 'consistency', 'flow'"),
        ({"prediction": "epsilon"}, "prediction 'epsilon'.*'eps', 'v', 'x0'"),
        ({"start": "tmin"}, "start 'tmin'.*'t_min', 'noise'"),
        ({"kind": "boft"}, "kind 'boft'"),
        ({"condition": "depth"}, "condition 'depth'.*'', 'image'"),
        ({"shift": 0.0}, "shift"),
        ({"steps": -1}, "steps"),
        ({"alpha": float("nan")}, "alpha"),
    ],
)
def test_invalid_facts_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(FACTS, **change)


def test_modelspec(saved):
    _, metadata = load_tensors(saved)
    content = saved.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    assert metadata["modelspec.sai_model_spec"] == "1.0.0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.implementation"] == "diffusers"
    assert metadata["modelspec.title"] == metadata["ss_output_name"] == "My LoRA"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", metadata["modelspec.date"])
    assert metadata["modelspec.prediction_type"] == "epsilon"
    assert metadata["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data).hexdigest()
    assert metadata["sshs_model_hash"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("base_model", "prediction", "architecture"),
    [
        ("SD20", "eps", "stable-diffusion-v2-512"),
        ("SD20", "v", "stable-diffusion-v2-768-v"),
        ("SDXL", "eps", "stable-diffusion-xl-v1-base"),
        ("SSD1B", "eps", "ssd1b"),
    ],
)
def test_modelspec_of_other_bases(tmp_path, base_model, prediction, architecture):
    facts = dataclasses.replace(FACTS, base_model=base_model, prediction=prediction, objective="naive_fm")
    save_lora(tmp_path / "x.safetensors", LoraModel({"lora_unet_input_blocks_0_0.diff": torch.ones(2)}, facts))
    metadata = load_tensors(tmp_path / "x.safetensors")[1]
    assert metadata["modelspec.architecture"] == architecture + "/lora"
    assert metadata["modelspec.implementation"].endswith("generative-models")
    assert "modelspec.prediction_type" not in metadata  # naive_fm: the network returns velocities
    assert metadata["modelspec.title"] == "x"


def test_kohya_metadata(saved):
    metadata = load_tensors(saved)[1]
    expected = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "2",
        "ss_network_alpha": "1.5",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_v_parameterization": "False",
        "ss_steps": "500",
        "ss_learning_rate": "0.0001",
        "ss_seed": "7",
        "ss_optimizer": "AdamW",
        "ss_num_train_images": "12",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert "ss_lr_scheduler" not in metadata and json.loads(metadata["diff2flow.training"]) == FACTS.training


def test_a_plain_dict_is_saved_without_facts(tmp_path):
    """The stock trainer's: parameters, names with dots."""
    stock = {
        "diffusion_model.first.lora_up.weight": nn.Parameter(torch.ones(6, 2)),
        "diffusion_model.first.lora_down.weight": nn.Parameter(torch.ones(2, 36)),
        "diffusion_model.first.alpha": torch.tensor(1.0),
        "diffusion_model.norm.diff": torch.ones(3),
    }
    save_lora(tmp_path / "x.safetensors", stock)
    lora = load_lora(tmp_path / "x.safetensors")
    assert lora.facts is None and lora.keys() == stock.keys()
    metadata = load_tensors(tmp_path / "x.safetensors")[1]
    assert metadata["modelspec.architecture"] == "unknown/lora" and "ss_network_dim" not in metadata
    assert repr(lora) == "<LoRA: 2 layers, without Diff2Flow metadata>"


def test_a_file_of_another_program_has_no_facts(tmp_path):
    save_tensors(tmp_path / "x.safetensors", {"unet.a.lora_A.weight": torch.ones(1, 2)}, {"ss_steps": "3"})
    assert load_lora(tmp_path / "x.safetensors").facts is None


def test_repr_is_short(tensors):
    """The host prints every input when a node fails."""
    lora = LoraModel(tensors, FACTS)
    assert repr(lora) == "<Diff2Flow LoRA: 4 layers, rank 2, diff2flow, 500 steps>"
    assert "several ranks" in repr(LoraModel(tensors, dataclasses.replace(FACTS, rank=0)))
    assert copy.deepcopy(lora).facts == FACTS and isinstance(lora, dict)


@pytest.mark.parametrize(
    "change", [{"format": "2"}, {"format": "x"}, {"shift": None}, {"shift": "wide"}, {"start": "0"}]
)
def test_metadata_that_cannot_be_understood_is_named(saved, change):
    tensors, metadata = load_tensors(saved)
    for name, value in change.items():
        del metadata["diff2flow." + name]
        metadata |= {} if value is None else {"diff2flow." + name: value}
    save_tensors(saved, tensors, metadata)
    words = "update Diff2Flow Kit" if change == {"format": "2"} else next(iter(change))
    with pytest.raises(ValueError, match=rf"my_lora_00001\.safetensors cannot be used as a LoRA: .*{words}"):
        load_lora(saved)


def test_a_file_older_than_image_conditions_has_none(saved):
    tensors, metadata = load_tensors(saved)
    assert metadata.pop("diff2flow.condition") == "" and metadata.pop("diff2flow.sha256")
    save_tensors(saved, tensors, metadata)
    assert load_lora(saved).facts == FACTS


@pytest.mark.parametrize(
    ("drop", "add", "words"),
    [
        ("lora_unet_blocks_0.lora_up.weight", {}, r"lora_unet_blocks_0 has lora_down.weight but no lora_up.weight"),
        ("lora_unet_blocks_0.lora_down.weight", {}, r"lora_unet_blocks_0 has lora_up.weight but no lora_down.weight"),
        ("", {"lora_unet_x.hada_w1_a": torch.ones(2)}, "lora_unet_x has hada_w1_a but no"),
        ("", {"lora_unet_x.wonder": torch.ones(2)}, "unknown key 'lora_unet_x.wonder'"),
        ("", {"lora_unet_blocks_0.lora_up.weight": torch.ones(8, 3)}, r"shapes of lora_unet_blocks_0 .* \(8, 3\)"),
        ("*", {}, "has no tensors"),
    ],
)
def test_incomplete_layers_are_named(saved, drop, add, words):
    tensors, metadata = load_tensors(saved)
    kept = {key: tensor for key, tensor in tensors.items() if drop not in ("*", key)} | add
    save_tensors(saved, kept, metadata)
    with pytest.raises(ValueError, match=rf"my_lora_00001\.safetensors cannot be used as a LoRA: .*{words}"):
        load_lora(saved)


@pytest.mark.parametrize(
    ("tensor", "dtype", "words"),
    [
        (torch.tensor([1.0, float("nan")]), "fp32", "NaN or infinite weights in lora_unet_a.diff"),
        (torch.tensor([1e5]), "fp16", "fp16 cannot hold the weights of lora_unet_a.diff, up to 100000; save as bf16"),
        (torch.tensor([1.0]), "fp8", "unknown dtype 'fp8'.*'fp16', 'bf16', 'fp32'"),
    ],
)
def test_weights_that_cannot_be_saved_are_named(tmp_path, tensor, dtype, words):
    with pytest.raises(ValueError, match=words):
        save_lora(tmp_path / "x.safetensors", {"lora_unet_a.diff": tensor}, dtype=dtype)
    with pytest.raises(ValueError, match="no tensors"):
        save_lora(tmp_path / "x.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_layers_without_a_name_or_with_the_same_are_named(generator):
    adapters = make_adapters(Network(), AdapterSettings("blocks.*", rank=1), generator)
    with pytest.raises(ValueError, match=r"the layer blocks\.1 has no name"):
        lora_tensors(adapters, {"blocks.0": "lora_unet_a"})
    with pytest.raises(ValueError, match=r"blocks\.1 has the name lora_unet_a of another"):
        lora_tensors(adapters, {"blocks.0": "lora_unet_a", "blocks.1": "lora_unet_a"})


def test_layer_of():
    assert layer_of("lora_unet_a_b.lora_down.weight") == "lora_unet_a_b"
    assert layer_of("diffusion_model.a.0.diff_b") == "diffusion_model.a.0"
    assert layer_of("unet.a.lora_A.weight") == "unet.a.lora_A.weight"


def test_schedule_fingerprint():
    """It forgives rounding and notices another schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    schedule = NoiseSchedule.from_betas(betas)
    prints = {schedule_fingerprint(schedule), schedule_fingerprint(NoiseSchedule.from_sigmas(schedule.sigma_ve))}
    assert len(prints) == 1 and re.fullmatch("[0-9a-f]{64}", prints.pop())
    assert schedule_fingerprint(schedule) != schedule_fingerprint(NoiseSchedule.from_betas(betas * 1.001))
    assert (
        schedule_fingerprint(NoiseSchedule(torch.tensor([0.0, 1.25], dtype=torch.float64)))
        == hashlib.sha256((0).to_bytes(8, "little") + (1250000).to_bytes(8, "little")).hexdigest()
    )


def test_schedule_fingerprint_without_a_table():
    edm = ContinuousSchedule("log", 0.002, 120.0)
    rounded = ContinuousSchedule("log", float(torch.tensor(0.002)), 120.0)  # as the host has it, in float32
    assert schedule_fingerprint(edm, 0.5) == schedule_fingerprint(rounded, 0.5)
    given = [(edm, 1.0), (edm, 0.5), (ContinuousSchedule("arctan", 0.002, 120.0), 0.5)]
    given += [(ContinuousSchedule("log", 0.002, 80.0), 0.5), (FlowSchedule(1.0), 1.0), (FlowSchedule(1000.0), 1.0)]
    others = [schedule_fingerprint(*one) for one in given]
    assert len(set(others)) == len(others)
    # A file holds it: it must not change.
    text = json.dumps(["FlowSchedule", "1000", "1"])
    assert schedule_fingerprint(FlowSchedule(1000.0)) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(("largest", "dtype"), [(1.0, "fp16"), (65503.0, "fp16"), (7e4, "bf16")])
def test_the_smallest_dtype_that_holds_the_weights(tmp_path, largest, dtype):
    lora = {"lora_unet_a.lora_down.weight": torch.tensor([[0.5, -largest]])}
    assert smallest_dtype(lora) == dtype
    save_lora(tmp_path / "a.safetensors", lora, dtype=smallest_dtype(lora))


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_a_flipped_bit_is_refused_wherever_it_is(saved):
    """In the weights, which load without a word otherwise, and in what the file says about its training."""
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    facts = [content.index(text) + len(text) for text in (b'diff2flow.shift":"', b'diff2flow.steps":"')]
    for at in [*range(header, len(content), len(content) // 40), *facts]:
        saved.write_bytes(flipped(content, at))
        with pytest.raises(ValueError, match=r"my_lora_00001\.safetensors cannot be .*(SHA-256|NaN or inf).*"):
            load_lora(saved)
    saved.write_bytes(content)
    assert load_lora(saved).facts == FACTS


def test_the_hash_of_another_program_is_not_compared(tmp_path):
    tensors = {"lora_unet_a.lora_up.weight": torch.ones(2, 1), "lora_unet_a.lora_down.weight": torch.ones(1, 2)}
    save_tensors(tmp_path / "x.safetensors", tensors, {"sshs_model_hash": "0" * 64, "modelspec.hash_sha256": "0x0"})
    assert load_lora(tmp_path / "x.safetensors").facts is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("key", ["alpha", "lora_up.weight", "diff"])
def test_weights_and_alphas_that_are_not_finite_are_refused_by_name(tmp_path, key, dtype, value):
    """Those of other programs, too."""
    tensors = {f"lora_unet_a.{part}": torch.ones(2, 2).to(dtype) for part in ("lora_up.weight", "lora_down.weight")}
    tensors |= {"lora_unet_a.alpha": torch.tensor(1.0).to(dtype), "lora_unet_a.diff": torch.ones(2).to(dtype)}
    save_tensors(tmp_path / "x.safetensors", tensors, {})
    assert load_lora(tmp_path / "x.safetensors").keys() == tensors.keys()
    broken = tensors[f"lora_unet_a.{key}"].float()
    broken.view(-1)[-1] = value
    save_tensors(tmp_path / "x.safetensors", {**tensors, f"lora_unet_a.{key}": broken.to(dtype)}, {})
    with pytest.raises(ValueError, match=rf"x\.safetensors cannot .* NaN or infinite values in lora_unet_a\.{key};"):
        load_lora(tmp_path / "x.safetensors")
