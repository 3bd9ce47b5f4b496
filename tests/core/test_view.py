"""The private view: same answers, no copies, nothing left on the network."""

import gc
import weakref

import pytest
import torch
from torch import nn

from d2f_core import for_autograd, frozen_copy


class Block(nn.Module):
    """Two layers and a buffer, called by name."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("offset", torch.full((6,), 0.1))

    def forward(self, x):
        Block.calls += 1
        return x + self.outer(torch.tanh(self.inner(x))) + self.offset


class Network(nn.Module):
    """Blocks in containers, one of them twice."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), nn.Sequential(Block(), nn.Linear(6, 6))])
        self.again = self.blocks[0]

    def forward(self, x):
        return self.again(self.blocks[1](self.blocks[0](x)))


class Adding(Block):
    """Adds to its input in place, which its first layer's gradient needs."""

    def forward(self, x):
        kept = self.inner(torch.tanh(x) * x)
        x += self.outer(kept)
        x *= 0.5
        return x


@pytest.fixture(params=[False, True], ids=["normal", "inference"])
def network(request):
    """A network whose weights were made in or out of inference mode."""
    with torch.random.fork_rng(), torch.inference_mode(request.param):
        torch.manual_seed(0)
        return Network().requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


def facts(network):
    """All that a view must not change."""
    return [
        (name, module.training, len(module._forward_hooks), "forward" in vars(module), list(module._modules))
        for name, module in network.named_modules()
    ] + [(name, p.requires_grad, p.data_ptr()) for name, p in network.named_parameters()]


@pytest.mark.parametrize("recompute", [False, True])
def test_same_answers_without_copies(network, x, recompute):
    view = frozen_copy(network, recompute=recompute)
    assert torch.equal(view(x), network(x))
    for (name, own), (_, theirs) in zip(view.named_parameters(), network.named_parameters(), strict=True):
        assert own.data_ptr() == theirs.data_ptr() and own is not theirs, name
        assert not own.is_inference() and not own.requires_grad
    assert view.again is view.blocks[0] and view.blocks[0].offset.data_ptr() == network.blocks[0].offset.data_ptr()


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_flow_and_nothing_is_left_on_the_network(network, x, recompute):
    before = facts(network)
    view = frozen_copy(network, recompute=recompute)
    view.train().blocks[0].inner.register_forward_hook(lambda layer, inputs, output: 2 * output)
    x.requires_grad_()
    view(x).square().sum().backward()
    assert x.grad.abs().min() > 0
    assert not torch.equal(view(x), frozen_copy(network)(x))
    assert facts(network) == before


def test_recomputing_gives_the_same_gradient_and_runs_the_blocks_again(network, x):
    gradients, calls = [], []
    for recompute in (False, True):
        leaf, Block.calls = x.clone().requires_grad_(), 0
        frozen_copy(network, recompute=recompute)(leaf).square().sum().backward()
        gradients.append(leaf.grad)
        calls.append(Block.calls)
    assert torch.equal(*gradients)
    assert calls == [3, 6]


def test_another_dtype_copies_and_fetched_weights_are_used(network, x):
    half = frozen_copy(network, torch.bfloat16)
    assert half(x.bfloat16()).dtype is torch.bfloat16
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    name, asked = "blocks.0.inner.weight", []

    def fetch(path):
        asked.append(path)
        return torch.zeros(6, 6) if path == name else network.get_parameter(path)

    view = frozen_copy(network, fetch=fetch)
    assert asked == [path for path, _ in network.named_parameters()]  # what is shared is fetched once
    assert not view.get_parameter(name).any() and network.get_parameter(name).any()
    assert not view.again.inner.weight.any() and view.get_parameter("blocks.0.outer.weight").any()


@pytest.mark.parametrize("recompute", [False, True])
def test_a_view_is_gone_with_its_last_reference(network, x, recompute):
    """Its weights may be copies on a small card, and nobody collects cycles in time."""
    x.requires_grad_()
    gc.collect()
    gc.disable()
    try:
        view = frozen_copy(network, torch.bfloat16, recompute)
        view(x.bfloat16()).square().sum().backward()
        parts = [weakref.ref(part) for part in (view, view.blocks[0], view.blocks[0].inner.weight)]
        del view
        assert [part() for part in parts] == [None] * 3
    finally:
        gc.enable()


class Counting(nn.Module):
    """Two blocks that look up in a shared dict where they are, and note it there, as the UNets of ComfyUI do."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Located(), Located()])

    def forward(self, x, options):
        options["index"] = 1
        for block in self.blocks:
            x = block(x, options=options)
            options["index"] += 1
        return x


class Located(Block):
    def forward(self, x, options):
        options["seen"] = options.get("seen", 0) + 1
        return super().forward(x * options["index"])


def test_recomputing_sees_what_the_block_saw(x):
    network, gradients = Counting(), []
    for recompute in (False, True):
        leaf, options = x.clone().requires_grad_(), {}
        frozen_copy(network, recompute=recompute)(leaf, options).square().sum().backward()
        assert options == {"index": 3, "seen": 2}  # what is noted on the way reaches the caller, once
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_a_forward_function_that_somebody_has_put_on_a_block_is_kept(x):
    network = Counting()
    network.blocks[0].forward = lambda x, options: torch.zeros_like(x)
    for recompute in (False, True):
        view = frozen_copy(network, recompute=recompute)
        assert torch.equal(view(x.clone().requires_grad_(), {}), network(x, {}))


def test_a_tensor_of_inference_mode_can_be_saved_for_backward():
    with torch.inference_mode():
        tensor = torch.arange(12.0).view(3, 4)[:, 1:].mT
    usable = for_autograd(tensor)
    assert torch.equal(usable, tensor.clone()) and usable.data_ptr() == tensor.data_ptr()
    assert usable.stride() == tensor.stride()
    weight = torch.ones(3, 3, requires_grad=True)
    (usable @ weight).sum().backward()
    assert weight.grad is not None


def test_what_hooks_have_left_on_a_module_is_not_shared(network, x):
    """A `forward` bound to the module itself, as taking a wrapper off leaves it, and a method of another kind."""
    wanted, block = network(x), network.blocks[0]
    block.forward = block.forward
    view = frozen_copy(network)
    assert torch.equal(view(x), wanted) and "forward" not in vars(view.blocks[0])

    def doubled(self, x):
        seen.append(self)
        return 2 * type(self).forward(self, x)

    seen = []
    block.forward = doubled.__get__(block)
    view = frozen_copy(network)
    view(x)
    assert set(map(id, seen)) == {id(view.blocks[0])}
    assert torch.equal(view(x), network(x))


def gradients(view, x):
    """Answer, and gradient of its square with respect to the input."""
    x = x.clone().requires_grad_()
    answer = view(x * 1)
    return answer.detach(), torch.autograd.grad(answer.square().sum(), x)[0]


@pytest.mark.parametrize("recompute", [False, True])
def test_blocks_that_add_in_place_can_be_trained(x, recompute):
    torch.manual_seed(0)
    network = nn.Sequential(Adding(), Adding())
    network = nn.ModuleDict({"blocks": network})
    blocks = network["blocks"]
    view = frozen_copy(network, recompute=recompute, out_of_place=(Adding,))

    def run(one):
        return lambda x: one["blocks"][1](one["blocks"][0](x))

    def exact(x):
        for block in blocks:
            x = (x + block.outer(block.inner(torch.tanh(x) * x))) * 0.5
        return x

    answer, slope = gradients(run(view), x)
    right, expected = gradients(exact, x)
    torch.testing.assert_close(answer, right)
    torch.testing.assert_close(slope, expected)
    with pytest.raises((RuntimeError, ValueError), match=r"inplace operation|changes what its blocks are given"):
        gradients(run(frozen_copy(network, recompute=recompute)), x)


def test_a_block_out_of_place_is_let_go(x):
    """No cycle keeps a copy alive until garbage collection."""
    view = frozen_copy(nn.ModuleDict({"blocks": nn.Sequential(Adding())}), out_of_place=(Adding,))
    alive = weakref.ref(view["blocks"][0])
    gc.disable()
    try:
        del view
        assert alive() is None
    finally:
        gc.enable()
