"""The presets of the trainer, all in one table."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Values for one kind of training.

    Attributes:
        about: what it is for, in a sentence.
        steps, learning_rate, rank, batch_size: for the trainer's own widgets.
        options: all else that is not at its default.
    """

    about: str
    steps: int
    learning_rate: float
    rank: int
    batch_size: int
    options: Mapping[str, Any]


# No warm-up: a run of fewer steps than that would be refused, and a LoRA starts at zero anyway.
_PICTURES = {"lr_schedule": "cosine", "accumulation": 4, "caption_dropout": 0.1, "preview_cfg": 5.0}
_WHOLE = {"lr_schedule": "cosine", "accumulation": 4, "full_ends": True}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "subject": Preset(
            "A person, pet or thing, from about 10 to 30 pictures of it with captions.", 1000, 1e-4, 16, 1, _PICTURES
        ),
        "style": Preset(
            "A look, from about 30 or more different pictures in it; captions say what is on them, not the style.",
            2000,
            1e-4,
            32,
            1,
            {**_PICTURES, "targets": "all"},
        ),
        "concept on a small card": Preset(
            "As subject, with gradient checkpointing: less memory, about a third slower.",
            1000,
            1e-4,
            16,
            1,
            {**_PICTURES, "checkpointing": True},
        ),
        "reflow": Preset(
            "Straight paths for few steps, from pairs of Generate Reflow Pairs.",
            2000,
            1e-4,
            64,
            4,
            {**_WHOLE, "ema": 0.99, "targets": "all", "density": "u_shaped"},
        ),
        "image to image": Preset(
            "Depth or another picture made from a picture, with Add Image Condition.",
            5000,
            1e-4,
            64,
            4,
            {**_WHOLE, "ema": 0.999, "save_every": 500},
        ),
    }
)
