"""The widgets of Training Set from Folder as the settings of ``d2f_data``."""

from collections.abc import Mapping
from typing import Any

from ...d2f_data.image_sets.augment import Augmentation
from ...d2f_data.image_sets.captions.settings import Captions
from ...d2f_data.image_sets.captions.tags import TagSettings
from ...d2f_data.image_sets.samples import SetSettings


def captions_of(widgets: Mapping[str, Any]) -> Captions:
    """Where captions come from, and how they vary."""
    tags = TagSettings(
        shuffle=widgets["shuffle_tags"],
        keep=widgets["keep_tokens"],
        dropout=widgets["tag_dropout"],
        variants=widgets["caption_variants"],
    )
    return Captions(
        source=widgets["captions"],
        fallback=widgets["caption"],
        prefix=widgets["prefix"],
        extension=widgets["caption_extension"],
        lines=widgets["caption_lines"],
        tags=tags,
        seed=widgets["seed"],
    )


def settings_of(widgets: Mapping[str, Any], factor: int) -> SetSettings:
    """How images become samples; ``factor`` is that of the VAE."""
    return SetSettings(
        resolution=widgets["resolution"],
        step=widgets["bucket_step"],
        factor=factor,
        repeats=widgets["repeats"],
        variants=widgets["variants"],
        augmentation=Augmentation(widgets["flip"], widgets["crop"], widgets["colour"]),
        upscale=widgets["upscale"] == "allow",
        seed=widgets["seed"],
        alpha_mask=widgets["transparency"] == "mask",
        unmasked=widgets["unmasked_weight"],
        pad=widgets["fit"] == "pad",
        more=resolutions(widgets["more_resolutions"]),
    )


def resolutions(text: str) -> tuple[int, ...]:
    """The numbers in the widget 'more_resolutions'. Raises ValueError that names what is none."""
    parts = [part for part in text.replace(",", " ").split() if part]
    for part in parts:
        if not part.isdecimal() or not 64 <= int(part) <= 4096:
            raise ValueError(
                f"more_resolutions has {part!r}; give sides in pixels from 64 to 4096, separated by commas, such as "
                "768, 1024"
            )
    return tuple(int(part) for part in parts)
