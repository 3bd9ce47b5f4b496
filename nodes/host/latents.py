"""What latents of a MODEL are: their shape for a picture, and the scale that its network works in."""

from typing import Any


def latent_shape(model: Any, width: int, height: int) -> tuple[int, int, int]:
    """(C, h, w) of the latents of a picture in pixels.

    Raises:
        ValueError: the sides are no multiples of the pixels of a latent.
    """
    latent_format = model.model.latent_format
    factor = int(getattr(latent_format, "spacial_downscale_ratio", 8))
    if width % factor or height % factor:
        raise ValueError(f"width and height must be multiples of {factor} for this model, got {width} and {height}")
    return int(latent_format.latent_channels), height // factor, width // factor


def latent_space(model: Any) -> str:
    """In words, for files: the scale of latents in model space."""
    latent_format = model.model.latent_format
    return f"model space of {type(latent_format).__name__} (scale factor {latent_format.scale_factor:g})"
