"""Learning rates of layers: the parameters of adapters, grouped by the factor of their rate.

    rate of a layer = learning rate * factor, under the same schedule

The group of factor 1 is the first one, whose rate is the one that is reported.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn

from ..core import LayerRule, rule_of

TEXT_ENCODERS = "text_encoders."
"""What the paths of layers begin with that are not the network's, but its text encoders'."""

ONE_RATE = ("prodigy",)
"""Optimizers that find one learning rate for all parameters."""


def rate_factors(
    paths: Iterable[str], network: nn.Module, rules: Collection[LayerRule], text: float
) -> dict[str, float]:
    """Path of a layer -> its learning rate as a multiple of the run's; ``text`` is that of the text encoders."""
    return {
        path: text if path.startswith(TEXT_ENCODERS) else rule_of(rules, path, network.get_submodule(path)).rate
        for path in paths
    }


def parameter_groups(
    adapters: Mapping[str, nn.Module], factors: Mapping[str, float], rate: float, optimizer: str
) -> list[Any]:
    """What an optimizer takes: all parameters, or groups of them if there are several rates.

    Args:
        adapters: path of a layer -> its adapter.
        factors: path of a layer -> factor of its rate.
        rate: the learning rate.
        optimizer: its name.

    Raises:
        ValueError: the optimizer knows no rates of single layers.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for path, adapter in adapters.items():
        trained = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
        groups.setdefault(factors[path], []).extend(trained)
    if groups.keys() == {1.0}:
        return groups[1.0]
    if optimizer in ONE_RATE:
        raise ValueError(
            f"some layers have a learning rate of their own, but {optimizer} finds one rate for all; give no 'rate' in "
            "layer_rules and no text_encoder_lr, or choose another optimizer"
        )
    ordered = sorted(groups, key=lambda factor: (factor != 1, factor))
    return [{"params": groups[factor], "lr": rate * factor} for factor in ordered]
