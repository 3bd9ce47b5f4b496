"""What 'Sample Prompts (Diff2Flow)' hands to the trainer: prompts, encoded, and the VAE that decodes their pictures."""

from dataclasses import dataclass
from typing import Any

from ....d2f_data.image_sets.report.facts import SetCaption
from ....d2f_data.image_sets.training_set import with_options
from ....d2f_data.training.sample_prompts import SamplePrompt
from ... import host


@dataclass(frozen=True, eq=False, repr=False)
class SampleSet:
    """Prompts with their CONDITIONINGs.

    Attributes:
        prompts: how each one is sampled.
        encoded: text -> CONDITIONING, of the prompts and of those negative prompts that are used.
        vae: decodes the pictures.
    """

    prompts: tuple[SamplePrompt, ...]
    encoded: dict[str, Any]
    vae: Any

    def __repr__(self) -> str:
        return f"<{len(self.prompts)} sample prompts>"


def encode_set(prompts: list[SamplePrompt], clip: Any, vae: Any) -> SampleSet:
    """Encode every text once, as CLIPTextEncode does; the model adds the size of the picture where it takes one."""
    texts = [one.text for one in prompts] + [one.negative for one in prompts if one.cfg != 1]
    distinct = list(dict.fromkeys(texts))
    encoded = {text: host.encode_caption(clip, text) for text in host.track(distinct, len(distinct))}
    known = {
        text: with_options(one, {host.TEXT_KEY: SetCaption(text, prompt_weights=True)}) for text, one in encoded.items()
    }
    return SampleSet(tuple(prompts), known, vae)
