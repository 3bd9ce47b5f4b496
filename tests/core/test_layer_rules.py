"""Rank, alpha and learning rate of some layers."""

import pytest
import torch
from torch import nn

from d2f_core import AdapterSettings, LayerRule, make_adapters, parse_layer_rules


@pytest.fixture
def network():
    blocks = {"down": nn.ModuleDict({"to_q": nn.Linear(32, 32), "conv": nn.Conv2d(8, 8, 3)}), "up": nn.Linear(32, 24)}
    return nn.ModuleDict(blocks)


def adapters(network, rules, **settings):
    given = {"targets": "all", "rank": 4, **settings}
    made = make_adapters(network, AdapterSettings(**given, rules=parse_layer_rules(rules)), torch.Generator())
    return {path: (adapter.rank, adapter.alpha) for path, adapter in made.items()}


def test_a_text_is_read_line_by_line():
    text = """
    # of the attentions
    *.to_q rank=8 alpha=2.5   # more
    conv:down.* rate=0.5
    """
    assert parse_layer_rules(text) == (LayerRule("*.to_q", 8, 2.5), LayerRule("conv:down.*", rate=0.5))
    assert parse_layer_rules(" \n# nothing\n") == ()


def test_ranks_and_alphas_are_those_of_the_first_rule_that_names_a_layer(network):
    rules = "down.to_q rank=8 alpha=3\ndown.* rank=2\nconv:* alpha=7"
    assert adapters(network, rules) == {"down.to_q": (8, 3.0), "down.conv": (2, 2.0), "up": (4, 4.0)}
    assert adapters(network, "conv:* alpha=7", alpha=1.0)["down.conv"] == (4, 7.0)
    assert adapters(network, "up rank=3", rank_ratio=0.5) == {
        "down.to_q": (16, 16.0),
        "down.conv": (4, 4.0),
        "up": (3, 3.0),
    }


def test_layers_of_rank_0_are_left_out(network):
    assert list(adapters(network, "down.* rank=0")) == ["up"]
    with pytest.raises(ValueError, match="leaves out every layer"):
        adapters(network, "* rank=0")


def test_without_rules_nothing_is_drawn_otherwise(network):
    made = [
        make_adapters(network, AdapterSettings("all", 4, rules=parse_layer_rules(text)), torch.Generator())
        for text in ("", "up alpha=4")
    ]
    for one, other in zip(*(adapters.values() for adapters in made), strict=True):
        assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_patterns_that_name_nothing_that_is_trained_are_named(network):
    with pytest.raises(ValueError, match=r"is named by middle\.\*, conv:up.*such as down.to_q, down.conv, up"):
        adapters(network, "down.* rank=2\nmiddle.* rank=2\nconv:up rank=3")
    with pytest.raises(ValueError, match=r"is named by down\.conv"):
        adapters(network, "down.conv rank=2", targets="linear:*")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("down.*", "needs a pattern and at least one"),
        ("rank=8 alpha=2", "needs a pattern"),
        ("down.* rnak=8", "'rnak=8' is not one of"),
        ("down.* 8", "'8' is not one of"),
        ("down.* rank=8.5", "rank must be a whole number, got '8.5'"),
        ("down.* rank=-1", "rank must be at least 0, got -1"),
        ("down.* rate=0", "rate must be above 0, got 0; rank=0"),
        ("down.* rate=nan", "rate must be above 0, got nan"),
        ("down.* alpha=", "alpha must be a number, got ''"),
    ],
)
def test_a_wrong_line_is_named_with_an_example(line, said):
    with pytest.raises(ValueError, match=rf"layer_rules, line '{line.replace('*', '[*]')}'.*{said}.*such as: "):
        parse_layer_rules(f"up rank=2\n{line}")
