"""Training items of the trainer: latents with captions, or reflow pairs, which bring their own noise."""

from collections.abc import Iterable
from typing import Any, Protocol

from ...d2f_core import TrainingData
from ...d2f_data.fingerprints import items_fingerprint
from ...d2f_data.image_sets.report.facts import SetCaption
from ...d2f_data.reflow.pair_set import ReflowPairSet
from .. import host
from ..reflow.pair_items import ReflowPairItems
from .latent_items import LatentItems


class TrainingItems(TrainingData, Protocol):
    """Training items, in groups of one shape each."""

    @property
    def has_null(self) -> bool:
        """Whether captions can be dropped."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, h, w) of the latents of the first group."""

    @property
    def facts(self) -> dict[str, str | int | float | bool]:
        """Metadata of a LoRA file about the items, besides their number: "start", "condition" and more."""

    @property
    def captions(self) -> Iterable[list[SetCaption]]:
        """What the training set says about the captions of each item; [] where it says nothing."""

    def __len__(self) -> int: ...

    def condition(self, item: int, drop: bool = False) -> host.Condition:
        """Conditioning kwargs of an item, tensors (1, ...)."""

    def fingerprint(self) -> str:
        """Hash of all items, 16 hex digits."""


def training_items(
    network: host.TrainingNetwork,
    model: Any,
    latents: Any,
    positive: Any,
    negative: Any,
    pairs: ReflowPairSet | None,
    condition: Any = None,
) -> TrainingItems:
    """The training items of the trainer's inputs; the network has been tried with one of them.

    Raises:
        ValueError: neither latents with captions nor pairs are given, or both; an image condition where there is none;
            what nodes have put on the model cannot be trained through.
    """
    items = _chosen(network, model, latents, positive, negative, pairs, condition)
    network.check_patches(items.shape, items.condition(0))
    return items


def _chosen(
    network: host.TrainingNetwork,
    model: Any,
    latents: Any,
    positive: Any,
    negative: Any,
    pairs: ReflowPairSet | None,
    condition: Any,
) -> TrainingItems:
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
        return ReflowPairItems(network, model, pairs, negative)
    for name, given in (("latents", latents), ("positive", positive)):
        if given is None:
            raise ValueError(
                f"'{name}' is not connected; connect 'latents' and 'positive' to train on images, or 'pairs' to reflow"
            )
    return LatentItems(network, latents, positive, negative, "latents", condition)


def words_fingerprint(condition: host.Condition) -> str:
    """Fingerprint of conditioning kwargs without the concat conditioning."""
    return items_fingerprint([], [{name: tensor for name, tensor in condition.items() if name != host.CALL_KEY}])


def validation_items(
    network: host.TrainingNetwork, latents: Any, positive: Any, condition: Any
) -> TrainingItems | None:
    """The items of the validation set; None without one.

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
