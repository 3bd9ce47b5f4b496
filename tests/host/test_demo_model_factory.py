"""Host nodes that copy a MODEL by loading it again can copy the demo model, too."""

import importlib
import inspect
import math

import pytest
import torch


@pytest.fixture
def networks(pack):
    return importlib.import_module(f"{pack.__name__}.demo.networks")


@pytest.fixture
def model(networks):
    return networks.load_model(networks.WEIGHTS)


@pytest.fixture
def copies_by_loading(model):
    if "force_deepcopy" not in inspect.signature(model.clone).parameters:
        pytest.skip("this ComfyUI does not copy models by loading them again")


def train(stock, model, steps):
    """(LORA_MODEL, LOSS_MAP, INT) out of the stock trainer on two items, all else at its defaults."""
    trainer = stock("train", "TrainLoraNode")
    inputs = {each.id: [each.default] for each in trainer.define_schema().inputs if hasattr(each, "default")}
    generator = torch.Generator().manual_seed(0)
    latents = {"samples": torch.randn(2, 4, 12, 12, generator=generator)}
    captions = [[[torch.randn(1, 24, 128, generator=generator), {}]] for _ in range(2)]
    inputs |= {"model": [model], "latents": [latents], "positive": captions, "steps": [steps], "rank": [2]}
    inputs |= {"training_dtype": ["fp32"], "lora_dtype": ["fp32"]}
    return trainer.execute(**inputs).result


def test_the_stock_trainer_trains_the_demo_model(stock, model):
    lora, losses, steps = train(stock, model, 2)
    assert steps == len(losses["loss"]) == 2
    assert all(map(math.isfinite, losses["loss"]))
    assert any(bool(values.abs().max() > 0) for name, values in lora.items() if "lora_up" in name)


def test_the_stock_trainer_leaves_the_demo_model_as_it_was(stock, model, fingerprint, copies_by_loading):
    before = fingerprint(model)
    train(stock, model, 2)
    assert fingerprint(model) == before


def test_a_deep_copy_has_equal_weights_of_its_own(model, copies_by_loading):
    copy = model.clone(force_deepcopy=True)
    mine, theirs = (each.model.diffusion_model.state_dict() for each in (model, copy))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not {x.data_ptr() for x in mine.values()} & {x.data_ptr() for x in theirs.values()}


def test_a_plain_patcher_is_to_be_had_of_a_dynamic_one(networks, monkeypatch, copies_by_loading):
    import comfy.model_patcher

    plain = comfy.model_patcher.ModelPatcher
    dynamic = type("Dynamic", (plain,), {"is_dynamic": lambda self: True})
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", dynamic)
    model = networks.load_model(networks.WEIGHTS)
    assert type(model) is dynamic
    delegate = model.clone(disable_dynamic=True)
    assert type(delegate) is plain
    assert delegate.model is not model.model
