"""Reflow pairs as training items: each latent with the noise that the teacher made it of."""

from collections.abc import Sequence
from typing import Any

from ...d2f_core import Batch
from ...d2f_data.reflow.pairs import ReflowPairSet
from .. import host
from ..network.conditionings import first_entry, join

# Of the teacher, what a student's file says.
_TOLD = ("solver", "steps", "cfg", "base", "seed")


class ReflowPairItems:
    """Reflow pairs as training items: each latent with the noise that the teacher made it of.

    Args:
        network: that is to be trained.
        model: its MODEL.
        pairs: the set.
        negative: CONDITIONING for dropped captions; None forbids dropping.

    Raises:
        ValueError: the pairs are another model's.
    """

    def __init__(self, network: host.TrainingNetwork, model: Any, pairs: ReflowPairSet, negative: Any) -> None:
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
