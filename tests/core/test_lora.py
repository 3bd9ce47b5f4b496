"""Adapters: what they add, where they sit, and that they leave nothing behind."""

import pytest
import torch
from torch import nn

from d2f_core.adapter import FullAdapter, LowRankAdapter, WidenedAdapter, attached
from d2f_core.lora import (
    TARGETS,
    AdapterSettings,
    adaptable_layers,
    make_adapters,
    select_layers,
)


class Network(nn.Module):
    """Two convolutions around one attention, with the names of a UNet."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.block = nn.ModuleDict({"to_q": nn.Linear(8, 8), "to_k": nn.Linear(8, 8), "to_v": nn.Linear(8, 8)})
        self.block["to_out"] = nn.ModuleList([nn.Linear(8, 8)])
        self.norm = nn.LayerNorm(8)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = self.first(x)
        tokens = self.norm(x.flatten(2).mT)
        q, k, v = (self.block[f"to_{name}"](tokens) for name in "qkv")
        tokens = tokens + self.block["to_out"][0](torch.softmax(q @ k.mT, -1) @ v)
        return self.last(tokens.mT.view(x.shape))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().requires_grad_(False)


@pytest.fixture
def x(generator):
    return torch.randn(2, 3, 8, 8, generator=generator)


def adapters_for(network, generator, trained=True, **settings):
    adapters = make_adapters(network, AdapterSettings(**{"targets": "all", "rank": 4, **settings}), generator)
    for parameter in nn.ModuleList(adapters.values()).parameters():
        if trained:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return adapters


def test_new_adapters_change_nothing(network, generator, x):
    before = network(x)
    with attached(network, adapters_for(network, generator, trained=False, full_ends=True)):
        assert torch.equal(network(x), before)


def test_adapters_equal_merged_weights(network, generator, x):
    """The hook computes what the layer would with W + (alpha / rank) up down."""
    adapters = adapters_for(network, generator, alpha=7.0, full_ends=True)
    with attached(network, adapters):
        hooked = network(x)
    for path, adapter in adapters.items():
        layer = network.get_submodule(path)
        full = isinstance(adapter, FullAdapter)
        layer.weight.data += adapter.diff.data if full else adapter.weight_delta().detach()
        if full:
            layer.bias.data += adapter.diff_b.data
    torch.testing.assert_close(hooked, network(x), rtol=1e-4, atol=1e-5)


def test_nothing_stays_behind(network, generator, x):
    before = network(x)
    adapters = adapters_for(network, generator)
    with pytest.raises(KeyError), attached(network, adapters):
        assert not torch.equal(network(x), before)
        raise KeyError
    assert torch.equal(network(x), before)
    assert not any(module._forward_hooks for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_an_unknown_path_leaves_no_hooks(network, generator):
    adapters = adapters_for(network, generator)
    adapters["nowhere"] = next(iter(adapters.values()))
    with pytest.raises(AttributeError), attached(network, adapters):
        pass
    assert not any(module._forward_hooks for module in network.modules())


def test_every_adapter_gets_a_gradient(network, generator, x):
    adapters = adapters_for(network, generator, full_ends=True)
    with attached(network, adapters):
        network(x).square().mean().backward()
    for adapter in adapters.values():
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())


def test_presets_choose_their_layers(network):
    def chosen(targets):
        return set(select_layers(network, AdapterSettings(targets)))

    attention = {"block.to_q", "block.to_k", "block.to_v"}
    assert chosen("attention") == attention | {"block.to_out.0"}
    assert chosen("attention_and_conv") == attention | {"first", "last"}
    assert chosen("all") == set(adaptable_layers(network)) == attention | {"block.to_out.0", "first", "last"}
    assert chosen("linear:*_q, conv:first") == {"block.to_q", "first"}
    assert set(TARGETS) == {"attention", "attention_and_conv", "all"}


class Transformer(nn.Module):
    """Layers under the names of SD3, Flux, AuraFlow, or of a network that nobody knows."""

    def __init__(self, *names):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 2)
        self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})

    def named_modules(self, *args, **kwargs):
        """Keys of a module dict hold no dots."""
        for path, module in super().named_modules(*args, **kwargs):
            yield path.removeprefix("layers.").replace("/", "."), module


def test_presets_know_the_attention_of_transformers():
    sd3 = (
        "joint_blocks/0/x_block/attn/qkv",
        "joint_blocks/0/context_block/attn/proj",
        "joint_blocks/0/x_block/mlp/fc1",
    )
    flux = (
        "double_blocks/0/img_attn/qkv",
        "double_blocks/0/img_mlp/0",
        "single_blocks/3/linear1",
        "single_blocks/3/linear2",
    )
    aura = ("double_layers/0/attn/w1q", "double_layers/0/attn/w2o", "double_layers/0/mlpX/c_fc1")
    wanted = {sd3: sd3[:2], flux: (flux[0], *flux[2:]), aura: aura[:2]}
    for names, expected in wanted.items():
        found = select_layers(Transformer(*names), AdapterSettings("attention"))
        assert set(found) == {name.replace("/", ".") for name in expected}
        assert "patches" in select_layers(Transformer(*names), AdapterSettings("attention_and_conv"))


def test_a_preset_that_finds_no_attention_says_so():
    """Otherwise a transformer's patch embedding, its only convolution, would be all that is trained."""
    with pytest.raises(ValueError, match=r"'attention_and_conv' names no attention layer; presets are .*'all'"):
        select_layers(Transformer("blocks/0/mixer/w"), AdapterSettings("attention_and_conv"))
    assert len(select_layers(Transformer("blocks/0/mixer/w"), AdapterSettings("all"))) == 2


def test_ranks(network, generator):
    adapters = adapters_for(network, generator, rank=64)
    assert adapters["last"].rank == 3 and adapters["first"].rank == 8
    adapters = adapters_for(network, generator, rank_ratio=0.2)
    assert adapters["first"].rank == 2 and adapters["first"].alpha == 2
    assert adapters["first"].down.shape == (2, 3, 3, 3) and adapters["first"].up.shape == (8, 2, 1, 1)
    assert adapters["block.to_q"].down.shape == (2, 8) and adapters["block.to_q"].up.shape == (8, 2)


def test_same_seed_same_adapters(network):
    one, two = (adapters_for(network, torch.Generator().manual_seed(5), trained=False) for _ in range(2))
    state = torch.get_rng_state()
    assert all(torch.equal(one[path].down, two[path].down) for path in one)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_in_training_only(network, generator, x):
    adapters = adapters_for(network, generator, dropout=0.5)
    modules = nn.ModuleList(adapters.values())
    with attached(network, adapters):
        modules.eval()
        assert torch.equal(network(x), network(x))
        modules.train()
        assert not torch.equal(network(x), network(x))


def test_half_precision_layers_keep_their_dtype(network, generator, x):
    adapters = adapters_for(network, generator, full_ends=True)
    with attached(network.bfloat16(), adapters):
        assert network(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, "at least 1"),
        ({"rank_ratio": 2.0}, "rank_ratio"),
        ({"alpha": 0.0}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
        ({"targets": "to_z"}, r"'to_z' names no layer.*'attention'"),
        ({"targets": "dense:*"}, r"'dense:\*' names no layer"),
    ],
)
def test_bad_settings_are_named(network, generator, settings, words):
    with pytest.raises(ValueError, match=words):
        make_adapters(network, AdapterSettings(**settings), generator)


def test_a_preset_takes_what_is_there():
    linear = nn.Sequential(nn.Linear(3, 3))
    assert list(select_layers(linear, AdapterSettings("all"))) == ["0"]
    with pytest.raises(ValueError, match="'attention' names no layer"):
        select_layers(linear, AdapterSettings("attention"))


@pytest.mark.parametrize("full_ends", [True, False])
@pytest.mark.parametrize("targets", ["all", "block.to_q"])
def test_widened_layers_are_trained_in_full_whatever_the_targets(network, generator, x, targets, full_ends):
    before = network(x)
    settings = AdapterSettings(targets, rank=2, full_ends=full_ends)
    adapters = make_adapters(network, settings, generator, in_full=("first",))
    assert type(adapters["first"]) is WidenedAdapter and type(adapters["block.to_q"]) is LowRankAdapter
    assert {type(adapters[path]) for path in {"last"} & adapters.keys()} == (
        {FullAdapter} if full_ends else {LowRankAdapter} if targets == "all" else set()
    )
    with attached(network, adapters):
        assert torch.equal(network(x), before)


@pytest.mark.parametrize(("channels", "out"), [(8, 16), (8, 320), (2, 18)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_widened_layer_in_a_file_is_its_difference_bit_for_bit(generator, channels, out, bias):
    """Also in half precision: one factor is the unit matrix."""
    adapter = WidenedAdapter(nn.Conv2d(channels, out, 3, bias=bias))
    adapter.diff.data.normal_(generator=generator)
    tensors = adapter.file_tensors()
    rank = min(out, channels * 9)
    assert tensors["lora_down.weight"].shape == (rank, channels, 3, 3)
    assert tensors["lora_up.weight"].shape == (out, rank, 1, 1)
    assert tensors["alpha"] == rank and tensors["reshape_weight"].tolist() == [out, channels, 3, 3]
    assert ("diff_b" in tensors) is bias and "diff" not in tensors
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        up, down = (tensors[f"lora_{part}.weight"].to(dtype).float().flatten(1) for part in ("up", "down"))
        assert torch.equal((up @ down).view(adapter.diff.shape), adapter.diff.detach().to(dtype).float())
    assert not any(tensor.requires_grad for tensor in tensors.values())
