"""Text encoders in training."""

from .encoder import TEXT_ENCODERS, TextEncoder

__all__ = ["TEXT_ENCODERS", "TextEncoder"]
