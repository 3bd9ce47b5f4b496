"""Weights that the host keeps in unusual ways, and what else is on the device: quantised, streamed, other models."""

import pytest
import torch

LAYER = "middle_block.1.transformer_blocks.0.attn2.to_q"


@pytest.fixture
def slopes(host, conditioning):
    """`slopes(model)` -> gradient of a loss by LoRAs on the attention layers."""
    from diff2flow_kit.d2f_core import AdapterSettings, attached, make_adapters

    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    def of(model, recompute=False):
        with host.training(model, recompute=recompute) as network, torch.enable_grad():
            generator = torch.Generator().manual_seed(3)
            adapters = make_adapters(network.module, AdapterSettings("attention", 2), generator)
            parameters = [p for adapter in adapters.values() for p in adapter.parameters()]
            for parameter in parameters:
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
            condition = network.condition(conditioning[0], (4, 8, 8))
            both = {name: tensor.repeat(2, 1, 1) for name, tensor in condition.items()}
            with attached(network.module, adapters):
                output = network(x.clone(), torch.tensor([900.0, 300.0]), both)
                return torch.cat([g.flatten() for g in torch.autograd.grad((output**2).mean(), parameters)])

    return of


def test_quantized_weights_train_as_what_they_stand_for(build, slopes):
    """Those of a loader, which are made under inference mode."""
    from comfy import quant_ops

    kind = getattr(quant_ops, "QuantizedTensor", None)
    if not hasattr(kind, "from_float"):
        pytest.skip("this ComfyUI has no quantized weights, or lacks the package that makes them")
    models = [build(dtype=torch.bfloat16), build(dtype=torch.bfloat16)]
    plain, small = (model.model.diffusion_model.get_submodule(LAYER) for model in models)
    weight = kind.from_float(small.weight.detach().clone(), "TensorCoreFP8E4M3Layout")
    small.weight = torch.nn.Parameter(weight, requires_grad=False)
    plain.weight = torch.nn.Parameter(weight.dequantize().bfloat16(), requires_grad=False)
    assert small.weight.is_inference()
    wanted, found = (slopes(model) for model in models)
    assert torch.equal(found, wanted) and bool(found.any())


FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "mxfp8", "nvfp4")


@pytest.fixture(params=FORMATS)
def quantized(request):
    """A layer that the host has loaded in a format, and the values that its weight stands for, bfloat16."""
    import json

    import comfy.ops
    from comfy import quant_ops

    if not hasattr(comfy.ops, "mixed_precision_ops") or request.param not in getattr(quant_ops, "QUANT_ALGOS", {}):
        pytest.skip("this ComfyUI does not have the format, or lacks the package that makes it")
    layout = quant_ops.QUANT_ALGOS[request.param]["comfy_tensor_layout"]
    weight, bias = (
        torch.randn(64, 128, generator=torch.Generator().manual_seed(4)).bfloat16(),
        torch.ones(64).bfloat16(),
    )
    scale = {} if request.param in ("mxfp8", "int8_tensorwise") else {"scale": "recalculate"}
    small = quant_ops.QuantizedTensor.from_float(weight, layout, **scale)
    told = torch.tensor(list(json.dumps({"format": request.param}).encode()), dtype=torch.uint8)
    layer = comfy.ops.mixed_precision_ops({}, torch.bfloat16).Linear(128, 64, dtype=torch.bfloat16)
    layer.load_state_dict({**small.state_dict("weight"), "bias": bias, "comfy_quant": told})
    assert isinstance(layer.weight, quant_ops.QuantizedTensor)
    return layer, layer.weight.dequantize()


@pytest.mark.parametrize("offloaded", [False, True])
def test_the_gradient_of_each_quantized_format_is_that_of_its_values(quantized, part, offloaded):
    from diff2flow_kit.d2f_core import Offload, frozen_copy

    layer, values = quantized
    with torch.inference_mode(False):
        own = frozen_copy(torch.nn.Sequential(layer))
        offload = Offload(torch.device("cpu")) if offloaded else None
        part("host.model_call.on_demand").run_layers_on_demand(own, torch.bfloat16, offload)
        x = torch.randn(2, 7, 128, generator=torch.Generator().manual_seed(5)).bfloat16().requires_grad_()
        y = own(x)
        (slope,) = torch.autograd.grad(y.float().square().sum(), x)
        other = x.detach().clone().requires_grad_()
        wanted = torch.nn.functional.linear(other, values.clone(), layer.bias.clone())
        assert values.any() and torch.equal(y, wanted)
        assert torch.equal(slope, torch.autograd.grad(wanted.float().square().sum(), other)[0])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_weights_of_eight_bits_train_as_their_values(build, slopes, dtype, recompute):
    small, plain = build(dtype=dtype, computes=torch.bfloat16), build(dtype=torch.bfloat16)
    for one, other in zip(small.model.diffusion_model.parameters(), plain.model.diffusion_model.parameters()):
        other.data.copy_(one.float())
    assert torch.equal(slopes(small, recompute), slopes(plain, recompute))


def test_no_copies_of_small_weights_wait_for_the_backward_pass(build, slopes, part, monkeypatch, live_memory):
    model = build(dtype=torch.float8_e4m3fn, computes=torch.float32)
    large = 4 * sum(weight.numel() for weight in model.model.diffusion_model.parameters() if weight.ndim > 1)
    with live_memory("cpu") as memory:
        slopes(model)
    monkeypatch.setattr(part("host.model_call.frozen"), "run_layers_on_demand", lambda *given: None)
    with live_memory("cpu") as usual:
        slopes(model)
    assert usual.peak - memory.peak > 0.8 * large


@pytest.mark.parametrize("recompute", [False, True])
def test_streamed_weights_are_held_while_it_trains(build, host, slopes, stock, train, monkeypatch, recompute):
    """`--novram` leaves all weights on the CPU, and casts each one through a buffer that the next one overwrites."""
    import comfy.model_management as management

    lora = train(build(), steps=2, learning_rate=0.3, run_name="before", targets="all")[0]
    plain, model = (stock("train", "LoraModelLoader").execute(build(), lora, 1.0).result[0] for _ in range(2))
    wanted = slopes(plain, recompute)
    with monkeypatch.context() as patch:
        patch.setattr(management, "vram_state", management.VRAMState.NO_VRAM)
        patch.setattr(management, "is_device_cpu", lambda device: False)
        found = slopes(model, recompute)
        layer = model.model.diffusion_model.get_submodule(LAYER)
        assert model.model.model_lowvram and layer.weight_function  # the host would patch it when it runs
        with host.training(model) as network:
            held = network.module.get_submodule(LAYER)
            assert not held.weight_function and held.weight.device == model.load_device
            assert not torch.allclose(held.weight, layer.weight, atol=1e-3)  # the LoRA is in it
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["plain", "dynamic"])
def test_other_models_leave_the_device_first(build, dynamic, host, monkeypatch, kind):
    import comfy.model_management as management

    told = []
    model, free = dynamic() if kind == "dynamic" else build(), management.free_memory
    monkeypatch.setattr(
        management,
        "free_memory",
        lambda memory, device, keep_loaded=(), **others: (
            told.append((memory, [one.model for one in keep_loaded]))
            or free(memory, device, keep_loaded=list(keep_loaded), **others)
        ),
    )
    other = build()
    management.load_models_gpu([other])
    assert other in [one.model for one in management.current_loaded_models]
    told.clear()
    with host.training(model):
        assert other not in [one.model for one in management.current_loaded_models]
        assert all(one.model.is_clone(model) for one in management.current_loaded_models)
    assert max(memory for memory, _ in told) > 1e15 and all(kept in ([], [model]) for _, kept in told)
