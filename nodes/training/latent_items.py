"""LATENTs and CONDITIONINGs as batches for the trainer.

Items are numbered through all latents in their order, one group a LATENT, since a batch has one shape. Conditionings
fit them in one of these ways: one for all, one an item (as a list, or as the batch of one conditioning), or one a
LATENT. Image conditions are LATENTs of their own, each item's at the item's place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...d2f_core import Batch, for_autograd
from ..fingerprints import items_fingerprint
from ..host import CALL_KEY, CONDITION_NODE, Condition, TrainingNetwork
from ..network.conditionings import entries_for, entries_of, first_entry, join

# Input of latents -> input of their image conditions.
CONDITION_INPUTS = {"latents": "condition", "validation_latents": "validation_condition"}


class LatentItems:
    """Training items of LATENTs and CONDITIONINGs; what the trainer calls ``TrainingData``.

    Args:
        network: brings latents and conditions into the model's form.
        latents: LATENTs, each (B_i, C, h, w), with "noise_mask" for weights of the places of the loss.
        positive: CONDITIONINGs; see the module's head.
        negative: CONDITIONING for dropped captions; None forbids dropping.
        what: name of the input, for errors.
        seen: LATENTs that the network sees beside its own input (image condition), an item each item, of its size.

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
        seen: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.network = network
        if not latents:
            raise ValueError(f"'{what}' is an empty list; give at least one latent")
        self.samples = [_checked(latent["samples"], network, what) for latent in latents]
        self.masks = [_mask(latent.get("noise_mask"), samples, what) for latent, samples in zip(latents, self.samples)]
        self.seen = _seen(seen, self.samples, network, what)
        sizes = [len(samples) for samples in self.samples]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.groups = [range(start, start + size) for start, size in zip(starts, sizes)]
        self._place = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
        self._encoded: dict[tuple[int, tuple[int, ...]], Condition] = {}
        self._entries = entries_for(entries_of(positive), sizes, what)
        self._null = first_entry(negative, "negative") if negative else None

    def __len__(self) -> int:
        return len(self._place)

    @property
    def has_null(self) -> bool:
        """Whether captions can be dropped."""
        return self._null is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the latents of the first group, (C, h, w)."""
        return tuple(self.samples[0].shape[1:])

    @property
    def facts(self) -> dict[str, str | int | float | bool]:
        """What a LoRA's file says about the items, beside their number."""
        return {"start": "noise", "condition": "image"} if self.seen else {}

    def __repr__(self) -> str:
        return f"<{len(self)} training items in {len(self.groups)} shapes>"

    def batch(self, items: Sequence[int], drop: Sequence[bool]) -> Batch:
        """Items of one group, those with ``drop`` under the null condition."""
        group = self._place[items[0]][0]
        rows = [self._place[item][1] for item in items]
        x0 = self.network.latents(self.samples[group][rows])
        mask = self.masks[group]
        told = join([self._text(item, dropped) for item, dropped in zip(items, drop)])
        return Batch(x0, {**told, **self._image(group, rows)}, None if mask is None else mask[rows].to(x0.device))

    def condition(self, item: int, drop: bool = False) -> Condition:
        """What the network is told about an item, tensors (1, ...); a dropped caption leaves the image condition."""
        group, row = self._place[item]
        return {**self._text(item, drop), **self._image(group, [row])}

    def _image(self, group: int, rows: list[int]) -> Condition:
        """The image conditions of items, (B, C, h, w) in the model's scale, under the host's name; {} without them."""
        return {CALL_KEY: self.network.latents(self.seen[group][rows])} if self.seen else {}

    def _text(self, item: int, drop: bool = False) -> Condition:
        """What the network is told in words, with a placeholder for an image condition; encoded once an entry."""
        shape = tuple(self.samples[self._place[item][0]].shape[1:])
        entry = self._null if drop and self._null is not None else self._entries[item]
        key = (id(entry), shape)
        if key not in self._encoded:
            self._encoded[key] = self.network.condition([entry], shape)
        return self._encoded[key]

    def fingerprint(self) -> str:
        """SHA-256 of all latents, masks and conditions, 16 hex digits."""
        masks = (mask for mask in self.masks if mask is not None)
        return items_fingerprint([*self.samples, *masks, *self.seen], map(self._text, range(len(self))))


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
    if not bool(torch.isfinite(samples).all()):
        raise ValueError(f"'{what}' holds NaN or infinite values; encode the images again, with the VAE in float32")
    return samples


def _mask(mask: Tensor | None, samples: Tensor, what: str) -> Tensor | None:
    """A LATENT's noise_mask, (any, [1,] H, W) in pixels, as weights (B, 1, h, w) of the latent's places.

    Fewer masks than items are repeated, and more are cut off, as the host's samplers do.
    """
    if mask is None:
        return None
    mask = for_autograd(mask).float().reshape(-1, 1, *mask.shape[-2:])
    if not bool(mask.any()):
        raise ValueError(f"the noise mask of '{what}' is black all over, so nothing would be learned; white is learned")
    small = torch.nn.functional.interpolate(mask, samples.shape[-2:], mode="area")
    return small[torch.arange(len(samples)) % len(small)]


def _seen(
    seen: Sequence[Mapping[str, Any]] | None, samples: Sequence[Tensor], network: TrainingNetwork, what: str
) -> list[Tensor]:
    """Checked image conditions, one tensor a LATENT; [] for a network that takes none."""
    name = CONDITION_INPUTS[what]
    if seen is None and network.widened:
        raise ValueError(
            f"this model takes an image condition, but '{name}' is not connected; connect the latents of the condition "
            f"images, one for each item of '{what}', or remove '{CONDITION_NODE}'"
        )
    if seen is None:
        return []
    if not network.widened:
        raise ValueError(f"'{name}' is connected, but this model takes none; put '{CONDITION_NODE}' before the trainer")
    checked = [_checked(latent["samples"], network, name) for latent in seen]
    shapes = [[tuple(one.shape) for one in tensors] for tensors in (checked, samples)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"'{name}' has latents of the shapes {_listed(shapes[0])}, but '{what}' of {_listed(shapes[1])}; give each "
            "item a condition of its own size, in the same order"
        )
    return checked


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    """Some of the shapes, for an error."""
    return (", ".join(map(str, shapes[:8])) or "none") + (" ..." if len(shapes) > 8 else "")
