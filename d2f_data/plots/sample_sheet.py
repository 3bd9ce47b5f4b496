"""The contact sheet of a training run: a row per prompt, a column per step."""

from collections.abc import Mapping, Sequence
from typing import Any

from .labels import drawable, shortened

TILE, LEAST_TILE, MOST_SIDE = 256, 64, 4096
LABEL, GAP = 20, 4  # pixels: height of a line of text, space around a picture


def tile_size(columns: int, rows: int) -> int:
    """Side of a picture on a sheet, in pixels: smaller on one that would be larger than ``MOST_SIDE``."""
    return max(LEAST_TILE, min(TILE, MOST_SIDE // max(columns, rows, 1)))


def fit(picture: Any, tile: int) -> Any:
    """A PIL image scaled so that its longer side is ``tile`` pixels."""
    from PIL import Image, ImageOps

    return ImageOps.contain(picture.convert("RGB"), (tile, tile), Image.Resampling.LANCZOS)


def sample_sheet(
    titles: Sequence[str], columns: Sequence[str], pictures: Mapping[tuple[int, int], Any], tile: int = TILE
) -> Any:
    """A PIL image of all pictures, with the columns' names at the top and a line of text above each row.

    Args:
        titles: text of each row; what Pillow's own font cannot draw becomes a question mark.
        columns: name of each column.
        pictures: (row, column) -> a PIL image that fits a tile; places without one stay empty.
        tile: side of a picture.
    """
    step = tile + 2 * GAP
    sheet, pen = _blank(max(1, len(columns)) * step, LABEL + len(titles) * (LABEL + step))
    for column, name in enumerate(columns):
        pen.text((column * step + GAP, 3), drawable(name), fill="black")
    for row, title in enumerate(titles):
        top = LABEL + row * (LABEL + step)
        pen.rectangle((0, top, sheet.width, top + LABEL), fill="#eeeeee")
        pen.text((GAP, top + 3), drawable(shortened(pen, title[:1000], sheet.width - 2 * GAP)), fill="black")
        for column in range(len(columns)):
            _put(sheet, pictures.get((row, column)), (column * step + GAP, top + LABEL + GAP), tile)
    return sheet


def picture_grid(pictures: Sequence[Any], tile: int = TILE) -> Any:
    """PIL images that fit a tile, as a grid that is as wide as high, or wider."""
    from PIL import Image

    wide = next(side for side in range(1, len(pictures) + 1) if side * side >= len(pictures))
    grid = Image.new("RGB", (wide * tile, -(-len(pictures) // wide) * tile))
    for index, picture in enumerate(pictures):
        _put(grid, picture, (index % wide * tile, index // wide * tile), tile)
    return grid


def notice(text: str) -> Any:
    """A PIL image that holds a line of text and nothing else."""
    sheet, pen = _blank(640, 3 * LABEL)
    pen.text((2 * GAP, LABEL), shortened(pen, text, 640 - 4 * GAP), fill="#444444")
    return sheet


def _blank(width: int, height: int) -> tuple[Any, Any]:
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.font = ImageFont.load_default(13)
    return sheet, pen


def _put(sheet: Any, picture: Any, at: tuple[int, int], tile: int) -> None:
    """Paste a picture into the middle of a tile."""
    if picture is not None:
        sheet.paste(picture, (at[0] + (tile - picture.width) // 2, at[1] + (tile - picture.height) // 2))
