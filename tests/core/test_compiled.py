"""Compiled parts of a frozen copy: the numbers of the plain one, adapters that change, few graphs, and what fails."""

import shutil
import sys
import sysconfig
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from d2f_core import AdapterSettings, attached, compile_blocks, compiler_fault, frozen_copy, make_adapters
from d2f_core import compiled as module

HAS_COMPILER = (
    sys.platform == "linux"
    and shutil.which("g++") is not None
    and Path(sysconfig.get_path("include"), "Python.h").is_file()
)


class Layer(nn.Module):
    """What repeats; it sees options, as the blocks of a host do."""

    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x, options=None):
        place = 0.0 if options is None else options.get("place", 0.0)
        return x + self.down(torch.tanh(self.up(x))) + place


class Block(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(Layer(width) for _ in range(depth)), nn.LayerNorm(width)

    def forward(self, x):
        for place, layer in enumerate(self.layers):
            x = layer(x, options={"place": 0.1 * place})
        return self.norm(x)


class Single(nn.Module):
    """A block in which nothing repeats."""

    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.two(self.one(x)[:, None])[:, 0]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.blocks = nn.Linear(6, 4), nn.ModuleList([Block(4, 3), Single(4), Block(4, 2)])

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


class Graphs:
    """A backend that runs what it gets as it is, and counts it."""

    def __init__(self):
        self.number = 0

    def __call__(self, graph, inputs):
        self.number += 1
        return graph.forward


@pytest.fixture(autouse=True)
def no_graphs_of_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


def adapters_of(view, seed):
    generator = torch.Generator().manual_seed(seed)
    found = make_adapters(view, AdapterSettings(targets="all", rank=2), generator)
    for adapter in found.values():
        nn.init.normal_(adapter.up, std=0.3, generator=generator)
    return found


def results(view, adapters, x):
    """Output, and the gradient of each parameter of the adapters."""
    parameters = [parameter for adapter in adapters.values() for parameter in adapter.parameters()]
    with attached(view, adapters):  # recomputed blocks need them in the backward pass, too
        output = view(x)
        return [output.detach(), *torch.autograd.grad(output.square().sum(), parameters)]


@pytest.mark.parametrize("recompute", [False, True], ids=["", "recomputed"])
def test_numbers_are_those_of_the_plain_copy_whichever_adapters_are_on(network, recompute):
    x, graphs = torch.randn(5, 3, 6), Graphs()
    plain = frozen_copy(network)
    fast = frozen_copy(network, recompute=recompute, compiled=partial(compile_blocks, backend=graphs))
    for seed in (1, 2):
        wanted, found = (results(view, adapters_of(view, seed), x) for view in (plain, fast))
        torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), plain(x))
        with attached(plain, adapters_of(plain, 3)), attached(fast, adapters_of(fast, 3)):
            torch.testing.assert_close(fast(x), plain(x))
    assert graphs.number > 0


def test_alike_parts_share_a_graph_and_other_adapters_need_none(network):
    graphs = Graphs()
    drop = {"arguments": lambda given: {}}  # so that no part knows its place
    view = frozen_copy(network, compiled=partial(compile_blocks, backend=graphs, **drop))
    x = torch.randn(5, 3, 6)
    for seed in range(4):
        results(view, adapters_of(view, seed), x)
    assert graphs.number == 2  # Layer, five times, and Single
    results(view, adapters_of(view, 4), torch.randn(7, 3, 6))
    results(view, adapters_of(view, 4), torch.randn(9, 3, 6))
    assert graphs.number <= 4  # one more each for every other size


def test_each_place_has_its_own_graph_if_parts_are_told_where_they_are(network):
    graphs = Graphs()
    view = frozen_copy(network, compiled=partial(compile_blocks, backend=graphs))
    results(view, adapters_of(view, 0), torch.randn(5, 3, 6))
    assert graphs.number > 2


def test_what_cannot_be_compiled_runs_as_it_is_and_is_told_once(network):
    def broken(graph, inputs):
        raise OSError("no compiler\nmore about it")

    told = []
    plain, view = (
        frozen_copy(network),
        frozen_copy(network, compiled=partial(compile_blocks, tell=told.append, backend=broken)),
    )
    x = torch.randn(5, 3, 6)
    for _ in range(2):
        torch.testing.assert_close(*(results(each, adapters_of(each, 1), x) for each in (view, plain)), rtol=0, atol=0)
    assert len(told) == 1 and "cannot be compiled" in told[0] and "no compiler" in told[0]


def test_blocks_that_add_in_place_are_compiled_out_of_place(network):
    """As Flux does it: without a new x, autograd would refuse."""
    Layer.forward, before = in_place, Layer.forward
    try:
        x, graphs = torch.randn(5, 3, 6), Graphs()
        compiled = partial(compile_blocks, backend=graphs)
        plain, fast = (
            frozen_copy(network, compiled=how, out_of_place=(Layer, Block, Single)) for how in (None, compiled)
        )
        wanted, found = (results(view, adapters_of(view, 1), x) for view in (plain, fast))
        torch.testing.assert_close(found, wanted)
        assert graphs.number > 0
    finally:
        Layer.forward = before


def in_place(self, x, options=None):
    x = x * 1.5
    y = x.square()  # needs x in the backward pass
    x += self.down(torch.tanh(self.up(x)))
    return x + y


def test_errors_of_the_network_are_its_own(network):
    view = frozen_copy(network, compiled=partial(compile_blocks, backend=Graphs()))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        view.blocks[0](torch.randn(5, 3, 7))


def test_an_error_empties_the_slots(network):
    view = frozen_copy(network, compiled=partial(compile_blocks, backend=Graphs()))
    x = torch.randn(5, 3, 6)
    with torch.no_grad():
        before = view(x)
        with pytest.raises(KeyError), attached(view, adapters_of(view, 1)):
            raise KeyError
        assert torch.equal(view(x), before)


def test_the_network_itself_has_no_slots(network):
    frozen_copy(network, compiled=partial(compile_blocks, backend=Graphs()))
    assert not any(layer._forward_hooks for layer in network.modules())
    assert not any("forward" in vars(layer) for layer in network.modules())


def test_a_missing_compiler_is_one_line(monkeypatch):
    def compile(function, backend):
        def run(x):
            raise RuntimeError("Cannot find a working triton installation\nsee the log")

        return run

    monkeypatch.setattr(module.torch, "compile", compile)
    assert compiler_fault(torch.device("cpu")) == "RuntimeError: Cannot find a working triton installation"
    monkeypatch.setattr(module.torch, "compile", lambda function, backend: function)
    for inside in (False, True):  # nodes run under inference mode, where nothing has a gradient
        with torch.inference_mode(inside):
            assert compiler_fault(torch.device("cpu")) is None


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="inductor needs g++ and Python's headers; it is tried on Linux")
def test_with_the_compiler_of_this_machine(network):
    """Inductor: where it has what it needs, a fault is a failure."""
    assert compiler_fault(torch.device("cpu")) is None
    told, x = [], torch.randn(5, 3, 6)
    plain, fast = frozen_copy(network), frozen_copy(network, compiled=partial(compile_blocks, tell=told.append))
    for seed in (1, 2):
        torch.testing.assert_close(*(results(view, adapters_of(view, seed), x) for view in (fast, plain)))
    assert not told
