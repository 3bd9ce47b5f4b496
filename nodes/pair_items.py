"""What the trainer trains on: latents with captions, or reflow pairs, whose noise is fixed."""

from collections.abc import Sequence
from typing import Any, Protocol

from ..d2f_core import Batch, TrainingData
from ..d2f_data.pairs import PairSet
from . import host
from .conditionings import first_entry, join
from .training_data import LatentItems

# Of the teacher, what a student's file says.
_TOLD = ("solver", "steps", "cfg", "base", "seed")


class TrainingItems(TrainingData, Protocol):
    """Items in groups of one shape each, as a training run needs them."""

    @property
    def has_null(self) -> bool:
        """Whether captions can be dropped."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the latents of the first group, (C, h, w)."""

    @property
    def facts(self) -> dict[str, str | int | float | bool]:
        """What a LoRA's file says about the items, beside their number: "start" and "condition" of its facts, more."""

    def __len__(self) -> int: ...

    def condition(self, item: int, drop: bool = False) -> host.Condition:
        """What the network is told about an item, tensors (1, ...)."""

    def fingerprint(self) -> str:
        """Hash of all items, 16 hex digits."""


class PairItems:
    """Reflow pairs as training items: each latent with the noise that the teacher made it of.

    Args:
        network: that is to be trained.
        model: its MODEL.
        pairs: the set.
        negative: CONDITIONING for dropped captions; None forbids dropping.

    Raises:
        ValueError: the pairs are another model's.
    """

    def __init__(self, network: host.TrainingNetwork, model: Any, pairs: PairSet, negative: Any) -> None:
        self.network, self.pairs = network, pairs
        name, teacher = host.model_name(model), pairs.settings["base_model"]
        if pairs.shape[0] != network.channels or teacher != name:
            raise ValueError(
                f"'pairs' holds latents of {pairs.shape[0]} channels made by {teacher}, but this model is {name} "
                f"with latents of {network.channels}; generate pairs with the model that is to be trained"
            )
        self.groups = pairs.groups
        self._null = network.condition([first_entry(negative, "negative")], pairs.shape) if negative else None

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return repr(self.pairs)

    @property
    def has_null(self) -> bool:
        """Whether captions can be dropped."""
        return self._null is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the latents, (C, h, w)."""
        return self.pairs.shape

    @property
    def facts(self) -> dict[str, str | int | float | bool]:
        """The pairs, and the teacher that made them."""
        told = {f"teacher_{name}": self.pairs.settings[name] for name in _TOLD}
        known = {name: value for name, value in told.items() if value is not None}
        return {"start": "noise", "pairs": self.pairs.fingerprint, **known}  # where the paths of pairs begin

    def batch(self, items: Sequence[int], drop: Sequence[bool]) -> Batch:
        """Some pairs, those with ``drop`` under the null condition."""
        read = self.pairs.read(items)
        told = self.pairs.conditions(read.prompts)
        chosen = [self._null if dropped and self._null is not None else one for one, dropped in zip(told, drop)]
        device = self.network.device
        return Batch(read.x0.to(device), join(chosen), eps=read.eps.to(device))

    def condition(self, item: int, drop: bool = False) -> host.Condition:
        """What the network is told about a pair, tensors (1, ...)."""
        return self._null if drop and self._null is not None else self.pairs.conditions([self.pairs.prompt_of(item)])[0]

    def fingerprint(self) -> str:
        """Hash of what decided the pairs, 16 hex digits."""
        return self.pairs.fingerprint


def training_items(
    network: host.TrainingNetwork,
    model: Any,
    latents: Any,
    positive: Any,
    negative: Any,
    pairs: PairSet | None,
    condition: Any = None,
) -> TrainingItems:
    """What the trainer's inputs ask for.

    Raises:
        ValueError: neither latents with captions nor pairs are given, or both; an image condition where there is none.
    """
    if pairs is not None:
        if latents or positive or condition:
            raise ValueError(
                "both 'pairs' and 'latents', 'positive' or 'condition' are connected; disconnect 'pairs' to train on "
                "latents with captions, or the others to reflow"
            )
        if network.widened:
            raise ValueError(
                "this model takes an image condition, but 'pairs' holds none; reflow a model without "
                f"'{host.CONDITION_NODE}', or connect 'latents', 'positive' and 'condition'"
            )
        return PairItems(network, model, pairs, negative)
    for name, given in (("latents", latents), ("positive", positive)):
        if given is None:
            raise ValueError(
                f"'{name}' is not connected; connect 'latents' and 'positive' to train on images, or 'pairs' to reflow"
            )
    return LatentItems(network, latents, positive, negative, "latents", condition)


def validation_items(
    network: host.TrainingNetwork, latents: Any, positive: Any, condition: Any
) -> TrainingItems | None:
    """What is only measured; None without it.

    Raises:
        ValueError: captions or latents are missing.
    """
    if not latents:
        if condition:
            raise ValueError(
                "'validation_condition' is connected, but 'validation_latents' is not; connect both or neither"
            )
        return None
    if not positive:
        raise ValueError("'validation_latents' have no captions; connect 'validation_positive'")
    return LatentItems(network, latents, positive, None, "validation_latents", condition)
