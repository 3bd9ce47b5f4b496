"""What a CONDITIONING holds besides its text, in the words of the nodes that put it there."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ..image_condition import APPLY_NODE, CONDITION_NODE, ENTRY_KEY

CAPTIONS_KEY = "d2f_captions"
"""Option of a CONDITIONING's entry: further entries of the same image, one of which is trained on in each epoch."""
TEXT_KEY = "d2f_text"
"""Option of a CONDITIONING's entry: the caption that it is of, a ``SetCaption``."""
WEIGHTS_KEY = "d2f_weights"
"""Key of a LATENT: weight of each item's loss, (B,)."""


class Extra(NamedTuple):
    """An option that the sampler reads and a network in training cannot: its name, and when a value matters."""

    name: str
    acts: Callable[[Any], bool] = lambda value: value is not None


_EXTRAS: Mapping[str, Extra] = MappingProxyType(
    {
        "control": Extra("a ControlNet (Apply ControlNet)"),
        "start_percent": Extra("a timestep range (ConditioningSetTimestepRange)", lambda value: value > 0),
        "end_percent": Extra("a timestep range (ConditioningSetTimestepRange)", lambda value: value < 1),
        "area": Extra("an area (Conditioning (Set Area))"),
        "strength": Extra("a strength (ConditioningSetAreaStrength)", lambda value: value != 1),
        "mask": Extra("a mask (Conditioning (Set Mask))"),
        "default": Extra("the role of a default (Cond Set Default Combine)"),
        "gligen": Extra("GLIGEN boxes (GLIGENTextBoxApply)"),
        "hooks": Extra("hooks (Cond Set Props, Set CLIP Hooks)"),
        "unclip_conditioning": Extra("an image for unCLIP (unCLIPConditioning)", bool),
        "additional_models": Extra("another model (additional_models)", bool),
        "reference_latents": Extra("a reference latent (ReferenceLatent)", bool),
        "cross_attn_controlnet": Extra("a prompt for ControlNets (CLIP Text Encode (Controlnet))"),
    }
)


def extras_of(options: Mapping[str, Any]) -> list[str]:
    """Names of what an entry of a CONDITIONING holds besides its text, in a fixed order, each once."""
    found = (extra.name for key, extra in _EXTRAS.items() if key in options and extra.acts(options[key]))
    return list(dict.fromkeys(found))


def check_caption(options: Mapping[str, Any], what: str, takes_image: bool) -> None:
    """Refuse what a network cannot learn from a caption.

    Args:
        options: of an entry of a CONDITIONING.
        what: name of the input.
        takes_image: whether the network takes the latent of an image besides the noisy one.

    Raises:
        ValueError: names the input, the option and the remedy.
    """
    extras = extras_of(options)
    if extras:
        raise ValueError(
            f"'{what}' holds {' and '.join(extras)}, which acts on sampling only: the network in training would never "
            f"see it; connect '{what}' directly to the text encoder, and use that node when you sample"
        )
    if options.get(ENTRY_KEY) is not None and not takes_image:
        raise ValueError(
            f"'{what}' holds the latent of an image ('{APPLY_NODE}', or a node for inpainting), but this model takes "
            f"none; put '{CONDITION_NODE}' before the trainer, or connect '{what}' directly to the text encoder"
        )
