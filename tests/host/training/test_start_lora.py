"""Going on from a LoRA: of ours, of kohya's layout, of the host's own; exactly where it is, and said what differs."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from d2f_core.lora import AdapterSettings, make_adapters

SETTINGS = {"batch_size": 5, "resume": "new", "run_name": "next"}


@pytest.fixture
def learned(build, train):
    """A LoRA of three steps, of rank 3, with its first and last convolution in full."""
    return train(build(), rank=3, full_ends=True, alpha=1.5, run_name="first", learning_rate=0.3)[0]


def first_loss(train, model, **given):
    return train(model, steps=1, **SETTINGS, **given)[1]["loss"][0]


@pytest.mark.parametrize("kind", ["lora", "lokr", "loha", "dora", "oft"])
def test_the_adapters_are_the_file_bit_for_bit(build, host, part, train, kind):
    model = build()
    lora = train(model, adapter=kind, rank=3, full_ends=True, alpha=1.5, learning_rate=0.3)[0]
    tensors = part("training.run").lora_tensors
    with host.training(model) as network:
        new = make_adapters(
            network.module, AdapterSettings("attention", rank=2), torch.Generator(), host.ADAPTER_KINDS[kind]
        )
        found = host.adapters_from(model, network.module, lora, new, kind, 0.0)
        again = tensors(found, host.lora_names(model))
    assert again.keys() == lora.keys()
    assert all(torch.equal(again[key].cpu(), lora[key]) for key in lora)


@pytest.mark.parametrize("kind", ["lora", "lokr", "loha", "dora", "oft"])
def test_training_starts_at_the_model_with_the_lora(build, host, train, kind):
    """The first loss is that of a new LoRA on a model to which the host applied this one."""
    lora = train(build(), adapter=kind, rank=3, full_ends=True, learning_rate=0.3, run_name="first")[0]
    before = first_loss(train, build())
    applied = first_loss(train, host.apply_lora(build(), lora, 1.0))
    started = first_loss(train, build(), start_lora=[lora], adapter=kind)
    assert started == pytest.approx(applied, rel=2e-4) and abs(started - before) > 50 * abs(started - applied)


def renamed(lora, layout, host, model):
    """The LoRA in another layout of keys."""
    names = {name: path for path, name in host.lora_names(model).items()}
    found = {}
    for key, tensor in lora.items():
        name, _, end = key.partition(".")
        path = f"diffusion_model.{names[name]}"
        found[layout(path, end)] = tensor
    return found


@pytest.mark.parametrize(
    "layout",
    [
        lambda path, end: f"lora_unet_{path.removeprefix('diffusion_model.').replace('.', '_')}.{end}",
        lambda path, end: f"{path}.{end}",
        lambda path, end: f"{path}.{end.replace('lora_up', 'lora_B').replace('lora_down', 'lora_A')}",
    ],
    ids=["kohya", "stock", "peft"],
)  # fmt: skip
def test_other_layouts_are_gone_on_with(build, host, train, layout):
    lora = train(build(), rank=3, alpha=1.5, learning_rate=0.3, run_name="first")[0]
    other = renamed(lora, layout, host, build())
    assert first_loss(train, build(), start_lora=[other]) == first_loss(train, build(), start_lora=[lora])


def test_a_lora_in_half_precision_and_of_inference_tensors_is_trained(build, train, learned, same):
    with torch.inference_mode():
        half = {key: tensor.half() for key, tensor in learned.items()}
    found = train(build(), start_lora=[half], learning_rate=0.1, **SETTINGS)[0]
    assert found.keys() == learned.keys() and not same(found, half)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())


def test_the_lora_that_was_given_is_left_as_it_is(build, train, learned):
    before = {key: tensor.clone() for key, tensor in learned.items()}
    train(build(), start_lora=[learned], learning_rate=0.3, **SETTINGS)
    assert all(torch.equal(before[key], learned[key]) for key in before)


def test_it_resumes_bit_for_bit_and_another_start_is_another_run(build, train, same, learned, output):
    settings = {"batch_size": 2, "ema": 0.9, "dropout": 0.2, "start_lora": [learned]}
    whole = train(build(), steps=6, run_name="whole", **settings)[0]
    train(build(), steps=3, run_name="parts", **settings)
    assert same(train(build(), steps=6, run_name="parts", **settings)[0], whole)
    train(build(), steps=6, run_name="parts", **{**settings, "start_lora": [whole]})
    assert (output / "diff2flow" / "runs" / "parts_00002").is_dir()
    assert whole.facts.training["start_steps"] == 3 and len(whole.facts.training["start_lora"]) == 16


def test_the_files_rank_is_kept_and_new_layers_are_said(build, train, learned, shown):
    one = train(build(), start_lora=[learned], rank=2, **SETTINGS)[0]
    assert (one.facts.rank, one.facts.alpha) == (3, 1.5)
    assert re.search(r"starts from a LoRA with \d+ layers of rank 3$", shown[0]) and "new" not in shown[0]
    shown.clear()
    wider = train(build(), start_lora=[learned], rank=2, targets="attention_and_conv", **SETTINGS)[0]
    assert wider.facts.rank == 0 and wider.keys() > learned.keys()
    assert re.search(r"starts from a LoRA with \d+ layers, \d+ layers are new", shown[0])


def test_what_differs_from_its_training_is_said(build, host, train, learned, shown):
    train(build(), start_lora=[learned], objective="diffusion", **SETTINGS)
    assert shown[0].endswith("trained with diff2flow so far")
    shown.clear()
    train(host.apply_lora(build(), learned, 1.0), start_lora=[learned], **SETTINGS)
    assert "trained on other weights than this model's" in shown[0] and "act twice" in shown[0]


def test_the_loader_hands_the_lora_on(build, node, train, saved):
    import folder_paths

    lora = train(build(), run_name="first")[0]
    (path,) = saved()
    copy = Path(folder_paths.get_folder_paths("loras")[0]) / "to_start_from.safetensors"
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(path, copy)
        loaded = node("D2FLoadLora").execute(build(), copy.name, 1.0).result[2]
    finally:
        copy.unlink()
    assert loaded.facts == lora.facts
    found = train(build(), start_lora=[loaded], **SETTINGS)[0]
    assert found.facts.training["start_objective"] == "diff2flow" and found.keys() == lora.keys()


def test_a_lora_of_a_widened_model_and_a_plain_one_on_it(build, host, train, latents):
    wide, seen = host.widen(build()), torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    given = {"condition": seen, "full_ends": True}
    lora = train(wide, run_name="first", learning_rate=0.3, **given)[0]
    started = first_loss(train, wide, start_lora=[lora], **given)
    applied = first_loss(train, host.apply_lora(wide, lora, 1.0), **given)
    assert started == pytest.approx(applied, rel=2e-4)
    plain = train(build(), run_name="plain", learning_rate=0.3, full_ends=True)[0]
    started = first_loss(train, wide, start_lora=[plain], **given)
    applied = first_loss(train, host.widen(host.apply_lora(build(), plain, 1.0)), **given)
    assert started == pytest.approx(applied, rel=2e-4)
    with pytest.raises(ValueError, match="with an image condition; put 'Add Image Condition"):
        train(build(), start_lora=[lora], **SETTINGS)


def edited(lora, change):
    name = next(key for key in lora if key.endswith("lora_down.weight")).removesuffix(".lora_down.weight")
    return {**lora, **change(name, lora[f"{name}.lora_up.weight"])}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name, up: {f"{name}.dora_scale": torch.ones(len(up), 1)}, "cannot be trained"),
        (lambda name, up: dict.fromkeys([f"lora_unet_out_0.{part}_norm" for part in "wb"], torch.ones(32)), "out.0"),
        (lambda name, up: {f"{name}.lora_up.weight": up * torch.nan}, "NaN"),
        (lambda name, up: {f"{name}.lora_down.weight": torch.zeros(2, 5)}, "other sizes"),
    ],
    ids=["dora", "norm", "nan", "size"],
)  # fmt: skip
def test_what_cannot_be_gone_on_with_is_named(build, train, change, words):
    lora = dict(train(build(), run_name="first")[0])
    with pytest.raises(ValueError, match=words):
        train(build(), start_lora=[edited(lora, change)], **SETTINGS)


def test_another_kind_or_prediction_type_is_refused(build, train, learned):
    with pytest.raises(ValueError, match="of the kind lora, but adapter is lokr; set it to lora"):
        train(build(), start_lora=[learned], adapter="lokr", **SETTINGS)
    with pytest.raises(ValueError, match="with eps-prediction, but this one has v-prediction"):
        train(build("V_PREDICTION"), start_lora=[learned], **SETTINGS)
    with pytest.raises(ValueError, match="text encoder alone"):
        train(build(), start_lora=[{"lora_te_text_model.lora_up.weight": torch.zeros(2, 2)}], **SETTINGS)


# The finish


@pytest.fixture
def pairs(node, output, build, conditioning):
    """Eight pairs of the small model in four windows."""
    generator = node("D2FReflowPairs")
    widgets = {one.id: one.default for one in generator.define_schema().inputs if hasattr(one, "default")}
    small = {"width": 64, "height": 64, "count": 8, "steps": 8, "cfg": 3.0, "storage": "fp32", "windows": "4"}
    generator.hidden = SimpleNamespace(unique_id="7")
    wrapped = {name: [value] for name, value in {**widgets, **small, "name": "four"}.items() if value is not None}
    return generator.execute([build()], positive=[conditioning[0]], negative=[conditioning[1]], **wrapped).result[0]


def test_a_finish_goes_on_from_reflow_and_is_sampled_to_the_end(node, build, train, same, pairs):
    reflow = train(build(), None, None, pairs=[pairs], steps=2, run_name="reflow")[0]
    load = node("D2FLoadLora").execute
    assert "or a multiple of 4" in load(build(), "none", 1.0, reflow).result[1]
    settings = {"objective": "consistency", "ema": 0.9, "start_lora": [reflow], "batch_size": 3}
    whole = train(build(), None, None, pairs=[pairs], steps=4, run_name="finish", **settings)[0]
    train(build(), None, None, pairs=[pairs], steps=2, run_name="parts", **settings)
    assert same(train(build(), None, None, pairs=[pairs], steps=4, run_name="parts", **settings)[0], whole)
    assert whole.facts.training["windows"] == 4 and whole.facts.start == "noise"
    info = load(build(), "none", 1.0, whole).result[1]
    assert "multiple of" not in info and "converted to flow matching: start noise" in info


def test_a_finish_without_pairs_is_refused(build, train):
    with pytest.raises(ValueError, match=r"consistency, a finish of reflow.*give it pairs"):
        train(build(), objective="consistency")
