"""Weights made when a layer runs: autograd's gradients, and no copy of the network between the passes."""

import gc
import weakref

import pytest
import torch
from torch import nn

from d2f_core import can_run_on_demand, frozen_copy, run_on_demand


def in_type_of(layer, like):
    """The weights of a layer in the type of what it is given, as a host casts them."""
    return layer.weight.to(like.dtype), None if layer.bias is None else layer.bias.to(like.dtype)


def on_demand(network):
    for layer in network.modules():
        if can_run_on_demand(layer):
            run_on_demand(layer, in_type_of)
    return network


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear without bias": (lambda: nn.Linear(6, 4, bias=False), (2, 5, 6)),
    "linear of tokens": (lambda: nn.Linear(6, 4), (2, 5, 6)),
    "conv": (lambda: nn.Conv2d(6, 4, 3, padding=1), (2, 6, 8, 8)),
    "strided conv": (lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1), (2, 6, 9, 8)),
    "grouped conv": (lambda: nn.Conv2d(6, 4, 3, dilation=2, groups=2, bias=False), (2, 6, 9, 9)),
}


@pytest.mark.parametrize("kept", [torch.float32, torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_those_of_the_weights_that_are_made(name, kept):
    make, shape = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        plain, x, wanted = make().requires_grad_(False), torch.randn(shape), None
    plain.weight.data = plain.weight.to(kept).float()
    small = frozen_copy(plain)
    small.weight = nn.Parameter(small.weight.to(kept), requires_grad=False)
    on_demand(small)
    found = []
    for layer in (plain, small):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        (slope,) = torch.autograd.grad((y * y.detach().cos()).sum(), leaf)
        found.append((y, slope))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[1][1].any() and wanted is None


def test_what_is_more_than_a_product_is_left_alone():
    odd = [nn.Conv2d(2, 2, 3, padding="same"), nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.LayerNorm(3)]
    taken = nn.Linear(3, 3)
    taken.forward = lambda x: x
    assert not any(map(can_run_on_demand, [*odd, taken, nn.Embedding(3, 3)]))
    assert can_run_on_demand(nn.Linear(3, 3)) and can_run_on_demand(nn.Conv2d(2, 2, 3))


def deep(layers=8, width=64):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        rows = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(layers)]
        return nn.Sequential(*rows).requires_grad_(False)


def peak_of(network, live_memory, width=64):
    x = torch.randn(2, width, requires_grad=True)
    with live_memory("cpu") as memory:
        network(x).square().sum().backward()
    assert x.grad.any()
    return memory.peak


def test_one_weight_at_a_time_is_alive(live_memory):
    """Of 8 layers whose weights are kept in 8 bits; autograd's own graph keeps all 8 in 32 bits."""
    one = 64 * 64 * 4
    network = deep()
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
            layer.forward = lambda x, layer=layer: nn.functional.linear(x, layer.weight.to(x.dtype), layer.bias)
    usual = peak_of(network, live_memory)
    for layer in network.modules():
        layer.__dict__.pop("forward", None)
    assert usual > 8 * one and one < peak_of(on_demand(network), live_memory) < 1.7 * one


def test_hooks_act_and_the_network_goes_with_its_last_reference():
    gc.collect()
    gc.disable()
    try:
        network = on_demand(deep(2))
        network[0][0].register_forward_hook(lambda layer, inputs, output: output + 1)
        x = torch.zeros(1, 64, requires_grad=True)
        assert not torch.equal(network(x), on_demand(deep(2))(x))
        network(x).sum().backward()
        parts = [weakref.ref(network), weakref.ref(network[0][0].weight)]
        del network
        assert [part() for part in parts] == [None, None]
    finally:
        gc.enable()
