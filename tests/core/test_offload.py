"""Weights in the main memory: they come ahead of their use, a few at a time, and nothing else changes.

There is no second device with values here. Torch's meta device stands for one where it matters that every weight is
brought (an operation on two devices raises) and how much is there; values and order are looked at on the CPU.
"""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from d2f_core import (
    AdapterSettings,
    Offload,
    attached,
    can_run_on_demand,
    frozen_copy,
    make_adapters,
    run_on_demand,
)

WIDTH = 32
ONE = WIDTH * WIDTH * 4  # bytes of a weight


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.norm, self.to_v = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.to_v(torch.tanh(self.to_q(self.norm(x))))


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(Block() for _ in range(6))).requires_grad_(False)


def offloaded(network, device="cpu", recompute=False, **sizes):
    """A copy of a network whose weights stay on the CPU and are brought to a device, and what brings them."""
    view, offload = frozen_copy(network, recompute=recompute), Offload(torch.device(device), **sizes)
    offload.watch(view)
    for layer in view.modules():
        if can_run_on_demand(layer):
            offload.keep(layer)
            run_on_demand(layer, lambda layer, like: (offload.fetch(layer.weight), layer.bias.to(like.device)))
        elif isinstance(layer, nn.LayerNorm):
            layer.to(device)
    return view, offload


def slopes(view, device="cpu", count=1):
    """Outputs and gradients of LoRAs on all layers, of `count` steps."""
    adapters = make_adapters(view, AdapterSettings("linear:*", 2), torch.Generator().manual_seed(1))
    parameters = [p for one in adapters.values() for p in one.to(device).parameters()]
    for parameter in parameters:
        parameter.data += 0.1
    x, found = torch.ones(3, WIDTH, device=device), []
    for _ in range(count):
        with attached(view, adapters):
            y = view(x)
            found = [y, *torch.autograd.grad(y.square().sum(), parameters)]
    return found


@pytest.mark.parametrize("recompute", [False, True])
def test_values_and_gradients_are_the_same_bit_for_bit(network, recompute):
    view = offloaded(network, recompute=recompute, ahead=3 * ONE, room=4 * ONE)[0]
    wanted, found = slopes(frozen_copy(network, recompute=recompute)), slopes(view, count=3)
    assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))


@pytest.mark.parametrize("recompute", [False, True])
def test_all_that_is_used_comes_to_the_device_and_leaves_it(network, recompute, live_memory):
    """12 weights, of which 3 may be there; adapters and their gradients are."""
    view = offloaded(network, "meta", recompute, ahead=ONE, room=3 * ONE)[0]
    with live_memory("meta") as memory:
        found = slopes(view, "meta", 2)
    assert {one.device.type for one in found} == {"meta"}
    with live_memory("meta") as usual:
        slopes(frozen_copy(network, recompute=recompute).to("meta"), "meta", 2)
    assert 8 * ONE <= usual.peak - memory.peak <= 9 * ONE + 12 * WIDTH * 5 * 4  # biases and norms are there anyway
    assert all(layer.weight.device.type == "cpu" for layer in view.modules() if isinstance(layer, nn.Linear))


class Watched(Offload):
    """Notes what is copied, and what is asked for."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log = []

    def _copy(self, weight):
        self.log.append(("copy", id(weight)))
        return super()._copy(weight)

    def fetch(self, weight):
        self.log.append(("use", id(weight)))
        return super().fetch(weight)


def test_from_the_second_call_on_every_weight_is_on_its_way_before_it_is_used(network, monkeypatch):
    monkeypatch.setitem(globals(), "Offload", Watched)
    view, offload = offloaded(network, ahead=ONE, room=3 * ONE)
    slopes(view)
    first = [what for what, _ in offload.log]
    assert first[:4] == ["use", "copy", "use", "copy"]  # nothing is known yet
    offload.log.clear()
    slopes(view)
    late = [one for one, after in zip(offload.log, offload.log[1:]) if after == ("copy", one[1]) and one[0] == "use"]
    assert len(late) == 1  # the first of the forward pass
    # There and back; what was used last in a pass is still there, and the way back ends at the second layer.
    assert [what for what, _ in offload.log].count("copy") == (12 - 2) + (11 - 3)


def test_the_order_is_learned_anew_where_it_changes(network):
    view, offload = offloaded(network, ahead=4 * ONE, room=5 * ONE)
    slopes(view, count=2)
    order = list(offload._order)
    with torch.no_grad():
        view(torch.ones(1, WIDTH))  # a preview: the forward pass alone
    slopes(view)
    assert offload._order == order and len(order) == 23  # the first layer's input needs no gradient
    assert torch.equal(view[::2](torch.ones(1, WIDTH)), network[::2](torch.ones(1, WIDTH)))  # another way through


def test_nothing_is_left_after_an_error_or_a_cancel(network):
    gc.collect()
    gc.disable()
    try:
        view, offload = offloaded(network, "meta", room=3 * ONE)
        state = copy.deepcopy(dict(network.named_parameters()))
        view[4].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            slopes(view, "meta")
        parts = [weakref.ref(offload), weakref.ref(view[0].to_q.weight)]
        del view, offload
        assert [part() for part in parts] == [None, None]
        for name, weight in network.named_parameters():
            assert torch.equal(weight, state[name]) and weight.device.type == "cpu"
        assert not network._forward_pre_hooks
    finally:
        gc.enable()


def test_the_memory_is_shared_where_it_is_main_memory_already(network):
    view = offloaded(network)[0]
    assert view[0].to_q.weight.data_ptr() == network[0].to_q.weight.data_ptr()
