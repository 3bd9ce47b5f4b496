"""DoRA: the formula, its gradient, nothing at the start, and no copy of the weights for the backward pass."""

import pytest
import torch
from torch import nn

from d2f_core.adapter import attached
from d2f_core.dora import EPS, DoraAdapter
from d2f_core.on_demand import run_on_demand


@pytest.fixture(params=["linear", "conv"])
def layer(request, generator):
    made = nn.Linear(6, 5) if request.param == "linear" else nn.Conv2d(6, 5, 3, stride=2, padding=1)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return made.requires_grad_(False)


@pytest.fixture
def x(layer, generator):
    shape = (2, 7, 6) if isinstance(layer, nn.Linear) else (2, 6, 8, 8)
    return torch.randn(shape, generator=generator)


def trained(layer, generator, dropout=0.0):
    adapter = DoraAdapter(layer, 2, 3.0, dropout, generator)
    for parameter in adapter.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return adapter.eval()


def on(layer, adapter, x):
    with attached(nn.ModuleDict({"a": layer}), {"a": adapter}):
        return layer(x)


def test_a_new_one_adds_nothing(layer, x, generator):
    assert torch.equal(on(layer, DoraAdapter(layer, 2, 3.0, 0.0, generator), x), layer(x))


def test_it_is_the_layer_with_the_papers_weight(layer, x, generator):
    """Column by column, in words of the paper: a length times a direction."""
    adapter = trained(layer, generator)
    changed = layer.weight + 1.5 * torch.einsum("or...,ri...->oi...", adapter.up, adapter.down)
    found = on(layer, adapter, x)
    for channel in range(6):
        column = changed[:, channel]
        changed[:, channel] = adapter.dora_scale[0, channel] * column / (column.square().sum().sqrt() + EPS)
    layer.weight.data = changed.detach()
    torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)


def test_its_gradient_is_that_of_finite_differences(layer, x, generator):
    """Of the lengths, both factors, and the input; of all of the formula, so the norm is no constant."""
    layer, x = layer.double(), x.double()
    adapter = trained(layer, generator).double()
    tensors = [parameter.detach().clone().requires_grad_() for parameter in adapter.parameters()]
    names = [name for name, _ in adapter.named_parameters()]

    def call(x, *tensors):
        def adapted(x):
            return adapter.added(layer, x, layer(x))

        holder = nn.Module()
        holder.adapter = adapter
        values = {f"adapter.{name}": value for name, value in zip(names, tensors, strict=True)}
        holder.forward = adapted
        return torch.func.functional_call(holder, values, (x,))

    assert torch.autograd.gradcheck(call, (x[:1, ..., :6].clone().requires_grad_(), *tensors), atol=1e-6)


def test_no_tensor_of_the_weights_size_waits_for_the_backward_pass(layer, generator):
    adapter, weights = trained(layer, generator), layer.weight.data_ptr()
    kept = []

    def pack(tensor):
        if tensor.data_ptr() != weights:
            kept.append(tensor.numel())
        return tensor

    x = torch.randn(1, 6) if isinstance(layer, nn.Linear) else torch.randn(1, 6, 1, 1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        on(layer, adapter, x.requires_grad_())
    assert max(kept) < layer.weight.numel()


def test_layers_that_make_their_weights_are_the_same(layer, x, generator):
    adapter, weight, bias = trained(layer, generator), layer.weight.clone(), layer.bias
    x.requires_grad_()
    plain = on(layer, adapter, x)
    wanted = torch.autograd.grad(plain.square().sum(), [x, *adapter.parameters()])
    run_on_demand(layer, lambda layer, like: (weight.to(like), bias))
    layer.weight.data.zero_()  # what it keeps is not what it computes with
    made = on(layer, adapter, x)
    found = torch.autograd.grad(made.square().sum(), [x, *adapter.parameters()])
    torch.testing.assert_close(made, plain)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_small_change_of_length_is_not_rounded_away_in_bfloat16(generator):
    """1.001 is 1 in bfloat16; what it adds is not."""
    layer = nn.Linear(6, 5).requires_grad_(False)
    adapter = DoraAdapter(layer, 2, 3.0, 0.0, generator)
    adapter.dora_scale.data *= 1.001
    x = torch.randn(4, 6, generator=generator)
    half = layer.bfloat16()
    found = adapter.added(half, x.bfloat16(), half(x.bfloat16())).float()
    wanted = adapter.added(layer.float(), x, layer(x))
    assert (found - wanted).norm() < 0.03 * wanted.norm()
