"""Classifier-free guidance for generating and measuring sampling paths: the check of its inputs, and its null side."""

from collections.abc import Sequence
from typing import Any

from .. import host
from ..network.conditionings import first_entry


def check_guidance(widget: str, cfg: float, has_negative: bool) -> None:
    """Refuse guidance without a negative conditioning.

    Args:
        widget: name of the widget that holds ``cfg``.
        cfg: guidance scale; 1 disables guidance.
        has_negative: whether the input 'negative' is connected.

    Raises:
        ValueError: guidance is enabled, but 'negative' is not connected.
    """
    if cfg != 1 and not has_negative:
        raise ValueError(
            f"{widget} is {cfg:g} but nothing is connected to 'negative'; connect the conditioning of an empty prompt, "
            f"or set {widget} to 1"
        )


def null_condition(
    network: host.TrainingNetwork, negative: Any, cfg: float, shape: Sequence[int]
) -> host.Condition | None:
    """Conditioning kwargs of the negative prompt, tensors (1, ...); None if ``cfg`` is 1.

    Args:
        network: the network that gets them.
        negative: CONDITIONING; only its first entry is used.
        cfg: guidance scale.
        shape: of one latent, (C, h, w).

    Raises:
        ValueError: ``negative`` has no entry.
    """
    return network.condition([first_entry([negative], "negative")], shape) if cfg != 1 else None
