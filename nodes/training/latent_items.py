"""LATENTs and CONDITIONINGs as batches for the trainer.

Items are numbered consecutively over all LATENTs, which form one group each, since all items of a batch have one shape.
There is one CONDITIONING for all items, one per item (a list, or a batch of texts in one entry), or one per LATENT.
Image conditions are LATENTs of their own, with the items in the same order. An item may have several captions, one of
which is drawn per epoch: ``epoch_items``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import Batch, for_autograd
from ...d2f_data.fingerprints import items_fingerprint
from ...d2f_data.image_sets.report.facts import SetCaption
from ..host import CALL_KEY, CONDITION_NODE, TEXT_KEY, WEIGHTS_KEY, Condition, TrainingNetwork
from ..network.caption_checks import captions_of, captions_of_entry, null_caption
from ..network.conditionings import entries_for, join
from ..network.epoch_items import EpochItems
from ..network.text_condition import merged

# Input of latents -> input of their image conditions.
CONDITION_INPUTS = {"latents": "condition", "validation_latents": "validation_condition"}
# Input of latents -> input of their captions.
CAPTION_INPUTS = {"latents": "positive", "validation_latents": "validation_positive"}


class LatentItems:
    """Training items of LATENTs and CONDITIONINGs; they implement ``d2f_core.TrainingData``.

    Args:
        network: converts latents and conditionings to the model's format.
        latents: LATENTs, each (B_i, C, h, w), with an optional "noise_mask" of loss weights per spatial position.
        positive: CONDITIONINGs; see the module docstring.
        negative: CONDITIONING for dropped captions; None if captions are never dropped.
        what: name of the input, for error messages.
        images: LATENTs of the image conditions, one item per training item and of the same size; None without them.

    Raises:
        ValueError: names the input at fault and the remedy.
    """

    def __init__(
        self,
        network: TrainingNetwork,
        latents: Sequence[Mapping[str, Any]],
        positive: Any,
        negative: Any,
        what: str,
        images: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.network = network
        if not latents:
            raise ValueError(f"'{what}' is an empty list; give at least one latent")
        self.samples = [_checked(latent["samples"], network, what) for latent in latents]
        self.masks = [_mask(latent.get("noise_mask"), samples, what) for latent, samples in zip(latents, self.samples)]
        self.weights = [_weights(latent.get(WEIGHTS_KEY), len(one), what) for latent, one in zip(latents, self.samples)]
        self.images = _image_conditions(images, self.samples, network, what)
        sizes = [len(samples) for samples in self.samples]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.groups = [range(start, start + size) for start, size in zip(starts, sizes)]
        self._position = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
        self._encoded: dict[tuple[int, tuple[int, ...]], Condition] = {}
        self._entries = entries_for(captions_of(network, positive, CAPTION_INPUTS[what]), sizes, what)
        self._captions = [len(captions_of_entry(entry)) for entry in self._entries]
        self._null = null_caption(network, negative)

    def __len__(self) -> int:
        return len(self._position)

    @property
    def has_null(self) -> bool:
        """Whether captions can be dropped."""
        return self._null is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, h, w) of the latents of the first group."""
        return tuple(self.samples[0].shape[1:])

    @property
    def facts(self) -> dict[str, str | int | float | bool]:
        """Metadata of a LoRA file about the items, besides their number."""
        return {"start": "noise", "condition": "image"} if self.images else {}

    @property
    def captions(self) -> Iterator[list[SetCaption]]:
        """What the training set says about the captions of each item; [] where it says nothing."""
        for entry in self._entries:
            every = captions_of_entry(entry)
            yield [options[TEXT_KEY] for _, options in every if TEXT_KEY in options]

    def __repr__(self) -> str:
        return f"<{len(self)} training items in {len(self.groups)} shapes>"

    def of_epoch(self, seed: int) -> EpochItems:
        """The items with the captions that are drawn for an epoch from its seed."""
        return EpochItems(self, self._captions, seed)

    def batch(self, items: Sequence[int], drop: Sequence[bool], captions: Sequence[int] | None = None) -> Batch:
        """Items of one group, those with ``drop`` under the null condition.

        Args:
            items: numbers of the items.
            drop: whether the caption of each is dropped.
            captions: number of the caption of each, from 0; None for the first ones.
        """
        group = self._position[items[0]][0]
        rows = [self._position[item][1] for item in items]
        x0 = self.network.latents(self.samples[group][rows])
        mask = self.masks[group]
        chosen = captions or [0] * len(items)
        own = [self.condition(*one) for one in zip(items, drop, chosen)]
        conditions = join(own, self.network.cross_attention)
        weights = self.weights[group]
        weight = None if weights is None else weights[rows].to(x0.device)
        return Batch(x0, conditions, None if mask is None else mask[rows].to(x0.device), weight=weight)

    def condition(self, item: int, drop: bool = False, caption: int = 0) -> Condition:
        """Conditioning kwargs of an item, tensors (1, ...); dropping the caption keeps the image condition."""
        group, row = self._position[item]
        return merged(self._text(item, drop, caption), self._image(group, row))

    def _image(self, group: int, row: int) -> Condition:
        """Concat conditioning of an item, (1, C, h, w) in the model's scale; {} without an image condition."""
        return {CALL_KEY: self.network.latents(self.images[group][row : row + 1])} if self.images else {}

    def _text(self, item: int, drop: bool = False, caption: int = 0) -> Condition:
        """Conditioning kwargs of the caption, with a placeholder for the image condition; prepared once per entry."""
        shape = tuple(self.samples[self._position[item][0]].shape[1:])
        entry = self._null if drop and self._null is not None else captions_of_entry(self._entries[item])[caption]
        key = (id(entry), shape)
        if key not in self._encoded:
            self._encoded[key] = self.network.condition([entry], shape)
        return self._encoded[key]

    def fingerprint(self) -> str:
        """SHA-256 of all latents, masks and conditions, 16 hex digits."""
        masks = (one for one in (*self.masks, *self.weights) if one is not None)
        captions = ((item, number) for item, count in enumerate(self._captions) for number in range(count))
        texts = (self._text(item, caption=number) for item, number in captions)
        return items_fingerprint([*self.samples, *masks, *self.images], texts)


def _checked(samples: Tensor, network: TrainingNetwork, what: str) -> Tensor:
    channels = network.channels
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise ValueError(
            f"'{what}' holds latents of shape {tuple(samples.shape)}, but this model takes (items, {channels}, height, "
            "width); encode the images with the VAE that belongs to the model"
        )
    if not len(samples):
        raise ValueError(f"'{what}' holds no items; give at least one latent")
    samples = for_autograd(samples)
    spoilt = _not_finite(samples)
    if spoilt:
        raise ValueError(
            f"'{what}' holds NaN or infinite values; encode the images again ({spoilt} of {len(samples)}), with the "
            "VAE in float32"
        )
    return samples


def _not_finite(values: Tensor) -> str:
    """Numbers of the rows with NaN or infinite values, from 1; empty if there are none."""
    rows = (~torch.isfinite(values.flatten(1)).all(1)).nonzero().flatten().tolist()
    return _listed([row + 1 for row in rows]) if rows else ""


def _mask(mask: Tensor | None, samples: Tensor, what: str) -> Tensor | None:
    """A LATENT's noise_mask, (any, [1,] H, W) in pixels, as loss weights (B, 1, h, w) per spatial position.

    Too few masks are repeated and surplus ones ignored, as in the host's samplers.
    """
    if mask is None:
        return None
    mask = for_autograd(mask).float().reshape(-1, 1, *mask.shape[-2:])
    spoilt = _not_finite(mask)
    if spoilt:
        raise ValueError(
            f"the noise mask of '{what}' holds NaN or infinite values (mask {spoilt} of {len(mask)}); use a mask with "
            "values from 0 to 1"
        )
    if not bool(mask.any()):
        raise ValueError(
            f"the noise mask of '{what}' is black everywhere, so that nothing would be learned; white is learned"
        )
    small = torch.nn.functional.interpolate(mask, samples.shape[-2:], mode="area")
    return small[torch.arange(len(samples)) % len(small)]


def _weights(weights: Tensor | None, count: int, what: str) -> Tensor | None:
    """Loss weights of a LATENT's items, (B,); None where all are 1."""
    if weights is None:
        return None
    weights = for_autograd(weights).float()
    if weights.shape != (count,) or not bool((weights >= 0).all()) or not bool(torch.isfinite(weights).all()):
        raise ValueError(f"the loss weights of '{what}' must be {count} numbers of at least 0; make the set again")
    return weights


def _image_conditions(
    images: Sequence[Mapping[str, Any]] | None, samples: Sequence[Tensor], network: TrainingNetwork, what: str
) -> list[Tensor]:
    """Checked image conditions, one tensor per LATENT; [] for a network that takes none."""
    name = CONDITION_INPUTS[what]
    if images is None and network.widened:
        raise ValueError(
            f"this model takes an image condition, but '{name}' is not connected; connect the latents of the condition "
            f"images, one for each item of '{what}', or remove '{CONDITION_NODE}'"
        )
    if images is None:
        return []
    if not network.widened:
        raise ValueError(f"'{name}' is connected, but this model takes none; put '{CONDITION_NODE}' before the trainer")
    checked = [_checked(latent["samples"], network, name) for latent in images]
    shapes = [[tuple(one.shape) for one in tensors] for tensors in (checked, samples)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"'{name}' has latents of the shapes {_listed(shapes[0])}, but '{what}' of {_listed(shapes[1])}; give each "
            "item a condition of its own size, in the same order"
        )
    return checked


def _listed(values: Sequence[Any]) -> str:
    """Some of the values, for an error."""
    return (", ".join(map(str, values[:8])) or "none") + (" ..." if len(values) > 8 else "")
