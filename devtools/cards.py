"""The thumbnails of the template browser: what goes into a graph and what comes out, to be read at 200 pixels.

Where the demo model makes a picture of it, that picture is on the card, otherwise words. `python dev.py demo
--pictures` draws all of them; those that are of words only are drawn without a run by

    python dev.py python -m devtools.cards
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .paths import ROOT
from .pictures import BACKGROUND, INK, Branches, scaled

SIZE, TILE, MARGIN, TOP = 512, 236, 8, 96
BOX, ACCENT = (52, 56, 68), (120, 190, 255)


@dataclass(frozen=True)
class Half:
    """A side of a card: words in a box, or the first picture of a branch, and a caption below."""

    caption: str
    words: str = ""
    branch: str = ""


CARDS: Mapping[str, tuple[Half, Half]] = {
    "01 Convert and sample": (Half("in", "any\ncheckpoint"), Half("out", branch="Pictures")),
    "02 Train a LoRA": (
        Half("before", branch="Before: cyan sphere"),
        Half('"cyan" learned', branch="After: cyan sphere"),
    ),
    "03 Train on your photos": (Half("in", "10 to 50\nof your\nphotos"), Half("out", "your\nLoRA")),
    "04 Use your LoRA": (Half("in", "your\nLoRA and\na prompt"), Half("out", "pictures,\nwith and\nwithout")),
    "05 Few steps": (Half("1 step, before", branch="Before: 1 NFE"), Half("1 step, after", branch="After: 1 NFE")),
    "06 Few steps with your checkpoint": (
        Half("in", "your\ncheckpoint,\nmany\nprompts"),
        Half("out", "a LoRA\nfor 2 to 4\nsteps"),
    ),
    "07 Image to depth": (Half("picture", branch="Image"), Half("depth", branch="Depth, 10 NFE")),
    "07 Depth of an image.app": (Half("in", "your image,\nyour depth\nLoRA"), Half("out", "its\ndepth")),
    "08 Train on image pairs": (Half("in", "pictures\nand their\ndepth\nmaps"), Half("out", "depth of\nany\npicture")),
    "09 Flow checkpoints": (Half("in", "an eps\nmodel,\nor a flow?"), Half("out", "the right\nnode, and\na LoRA")),
    "10 Compare solvers": (Half("euler", branch="1 euler, 20 steps"), Half("rk4", branch="4 rk4, 5 steps")),
    "11 Inpaint": (Half("in", "a picture\nand a box"), Half("out", "the box,\nrepainted")),
    "12 True black": (Half("before", branch="Before: black"), Half("after", branch="After: black")),
}


def card(halves: tuple[Half, Half], branches: Branches) -> Image.Image:
    """The thumbnail of a graph; a KeyError names a branch that its run has not made."""
    files = dict(branches)
    page = Image.new("RGB", (SIZE, SIZE), BACKGROUND)
    pen = ImageDraw.Draw(page)
    for half, left in zip(halves, (MARGIN, SIZE - MARGIN - TILE), strict=True):
        middle = left + TILE // 2
        if half.branch:
            page.paste(scaled(files[half.branch][0], TILE), (left, TOP))
        else:
            pen.rounded_rectangle([left, TOP, left + TILE, TOP + TILE], 18, BOX)
            pen.multiline_text((middle, TOP + TILE // 2), half.words, INK, font(42), "mm", 8, "center")
        pen.text((middle, TOP + TILE + 38), half.caption, INK, font(34), anchor="mm")
    x, y = SIZE // 2, TOP + TILE + 100
    pen.line([x - 90, y, x + 80, y], ACCENT, 10)
    pen.polygon([(x + 70, y - 24), (x + 110, y), (x + 70, y + 24)], ACCENT)
    return page


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def of_words(halves: tuple[Half, Half]) -> bool:
    """Whether a card needs no run of its graph."""
    return not any(half.branch for half in halves)


def draw_cards(made: Mapping[str, Branches], folder: Path) -> None:
    """The cards of the graphs that were run, and of those that need no run."""
    for name, halves in CARDS.items():
        if name in made or of_words(halves):
            card(halves, made.get(name, [])).save(folder / f"{name}.jpg", quality=90, optimize=True)


if __name__ == "__main__":
    draw_cards({}, ROOT / "workflows")
