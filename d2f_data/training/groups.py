"""Learning rates of layers: the parameters of adapters, grouped by the factor of their rate.

    rate of a layer = learning rate * factor, under the same schedule

The group of factor 1 is the first one, whose rate is the one that is reported.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

ONE_RATE = ("prodigy",)
"""Optimizers that find one learning rate for all parameters."""


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
