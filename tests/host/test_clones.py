"""Clones share one module: the original and the converted model must never see each other's schedule.

ComfyUI's dynamic patcher, the default on GPUs, keeps registered buffers by attribute path in one dict for all
clones, and puts them back when the model is unloaded, newer ones also when a clone is loaded. Here it runs on the CPU,
where the host would not choose it.
"""

import pytest
import torch

ORDERS = ["ococ", "coco", "ooccoo"]


@pytest.fixture
def alternate(dynamic, host, table_levels, sample):
    """`alternate(order)` -> latents of each run of o(riginal) and c(onverted), the schedules read live.

    `unload`: free the memory after each run, as the user can and the host does when it runs short.
    """
    import comfy.model_management

    def run(order, unload=False):
        model = dynamic()
        models, made = {"o": model, "c": host.convert(model)}, []
        assert models["c"].is_dynamic()
        for name in order:
            made.append(sample(models[name], table_levels(models[name], 2)))
            if unload:
                comfy.model_management.unload_all_models()
        return made

    return run


@pytest.fixture
def alone(alternate):
    """The latents of each model when the other never ran."""
    return {name: alternate(name)[0] for name in "oc"}


@pytest.mark.parametrize("unload", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_original_and_converted_take_turns_bit_for_bit(alternate, alone, order, unload):
    assert not torch.equal(alone["o"], alone["c"])
    for name, latents in zip(order, alternate(order, unload), strict=True):
        assert torch.equal(latents, alone[name])


def test_with_buffers_the_clones_would_mix(alternate, alone, dynamic, monkeypatch, host):
    """Why `FlowSampling` registers no buffers: what `register_buffer` is there to stop."""
    on_load = hasattr(dynamic(), "restore_loaded_backups")  # from 0.24 on; before, only unloading puts buffers back
    monkeypatch.delattr(host.conversion.FlowSampling, "register_buffer")
    original_init = host.conversion.FlowSampling.__init__

    def init(self, *args, **kwargs):
        original_init(self, *args, **kwargs)
        sigmas = self.__dict__.pop("sigmas")
        self.register_buffer("sigmas", sigmas)

    monkeypatch.setattr(host.conversion.FlowSampling, "__init__", init)
    mixed = alternate("ococ", unload=not on_load)
    assert not all(torch.equal(latents, alone[name]) for name, latents in zip("ococ", mixed, strict=True))
