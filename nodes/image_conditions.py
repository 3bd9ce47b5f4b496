"""Image conditions: latents that a CONDITIONING carries to a model with the image condition."""

from typing import Any

from torch import Tensor

KEY = "concat_latent_image"  # the host's own name


def with_condition(conditioning: Any, samples: Tensor) -> Any:
    """A CONDITIONING whose every entry carries latents, which the host concatenates with the noisy ones.

    Args:
        conditioning: CONDITIONING; it stays as it is.
        samples: condition latents as a LATENT holds them, (B, C, h, w); item i belongs to item i of what is sampled.
    """
    return [[text, {**options, KEY: samples}] for text, options in conditioning]
