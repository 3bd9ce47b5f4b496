"""Variants of captions that are lists of tags, "1girl, red hair, smile": shuffled order, dropped tags.

A variant is drawn from (seed, image, number), so that a set does not change when images are added. Of the tags behind
the first ``keep``, each is dropped with probability ``dropout``, and the rest are put in a random order. All variants
of an image are encoded once, and the trainer draws one of them per epoch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TagSettings:
    """How captions of comma-separated tags vary.

    Attributes:
        shuffle: whether the order of the tags varies.
        keep: number of tags at the start that keep their place and are never dropped.
        dropout: probability of dropping each of the other tags, in [0, 1).
        variants: number of captions per image that are drawn and encoded.
    """

    shuffle: bool = False
    keep: int = 1
    dropout: float = 0.0
    variants: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"tag_dropout must be at least 0 and below 1, got {self.dropout:g}; 0 turns it off")
        for name, value, least in (("keep_tokens", self.keep, 0), ("caption_variants", self.variants, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    @property
    def on(self) -> bool:
        """Whether captions vary at all."""
        return self.shuffle or self.dropout > 0


def split_tags(caption: str) -> list[str]:
    """The tags of a caption; one for a sentence without commas."""
    return [tag for tag in (part.strip() for part in caption.split(",")) if tag]


def caption_variants(lines: Sequence[str], tags: TagSettings, seed: int, image: str) -> tuple[str, ...]:
    """The captions of an image, one of which is drawn per epoch.

    Args:
        lines: one or more captions; with tag tools on, the variants take them in turn.
        tags: how each varies.
        seed: of the set.
        image: name of the image.
    """
    if not tags.on:
        return tuple(lines)
    count = max(tags.variants, len(lines))
    return tuple(_vary(lines[number % len(lines)], tags, seed, image, number) for number in range(count))


def _vary(caption: str, tags: TagSettings, seed: int, image: str, number: int) -> str:
    parts = split_tags(caption)
    kept, others = parts[: tags.keep], parts[tags.keep :]
    if not others:
        return caption
    digest = hashlib.sha256(f"{seed}/{image}/tags/{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    stays = (torch.rand(len(others), generator=generator, dtype=torch.float64) >= tags.dropout).tolist()
    order = torch.randperm(len(others), generator=generator).tolist()
    places = order if tags.shuffle else range(len(others))
    return ", ".join(kept + [others[place] for place in places if stays[place]])
