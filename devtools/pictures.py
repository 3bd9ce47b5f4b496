"""Put the demo's images together: a sheet per graph.

A graph is a list of branches, (label, image files). Each gets OUTPUT/<graph>_sheet.png, a row per branch. A graph with
branches "Before: <what>" and "After: <what>" gets OUTPUT/<graph>_before_after.png, a row per pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

Branches = list[tuple[str, list[str]]]

BACKGROUND, INK = (24, 24, 28), (235, 235, 235)
CELL, LABEL_WIDTH, GAP = 144, 190, 6
HEADING, BETWEEN = 30, 24


def draw(graphs: Mapping[str, Branches], output: Path) -> None:
    """Sheets of the graphs in `output`."""
    for graph, branches in graphs.items():
        sheet(branches).save(output / f"{graph}_sheet.png", optimize=True)
        pairs = before_and_after(branches)
        if pairs:
            comparison(pairs).save(output / f"{graph}_before_after.png", optimize=True)


def sheet(branches: Branches) -> Image.Image:
    """A row per branch: its label, then its images."""
    columns = max(len(files) for _, files in branches)
    size = (LABEL_WIDTH + columns * (CELL + GAP), len(branches) * (CELL + GAP) + GAP)
    page = Image.new("RGB", size, BACKGROUND)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for row, (label, files) in enumerate(branches):
        top = GAP + row * (CELL + GAP)
        pen.text((GAP * 2, top + CELL // 2), wrapped(label), INK, font, anchor="lm")
        for column, file in enumerate(files):
            page.paste(scaled(file, CELL), (LABEL_WIDTH + column * (CELL + GAP), top))
    return page


def before_and_after(branches: Branches) -> dict[str, tuple[list[str], list[str]]]:
    """{what: (files before, files after)} of the branches that come in such pairs."""
    files = dict(branches)
    before = {label.removeprefix("Before: "): one for label, one in files.items() if label.startswith("Before: ")}
    return {what: (one, files[f"After: {what}"]) for what, one in before.items()}


def comparison(pairs: dict[str, tuple[list[str], list[str]]]) -> Image.Image:
    """A row per pair: its label, the images before, the images after."""
    half = max(len(before) for before, _ in pairs.values()) * (CELL + GAP)
    starts = (LABEL_WIDTH, LABEL_WIDTH + half + BETWEEN)
    page = Image.new("RGB", (starts[1] + half, HEADING + len(pairs) * (CELL + GAP) + GAP), BACKGROUND)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for start, heading in zip(starts, ("before training", "after training, same seeds")):
        pen.text((start, HEADING // 2), heading, INK, font, anchor="lm")
    for row, (what, sides) in enumerate(pairs.items()):
        top = HEADING + GAP + row * (CELL + GAP)
        pen.text((GAP * 2, top + CELL // 2), what, INK, font, anchor="lm")
        for start, files in zip(starts, sides):
            for column, file in enumerate(files):
                page.paste(scaled(file, CELL), (start + column * (CELL + GAP), top))
    return page


def scaled(file: str, size: int) -> Image.Image:
    """An image in a square of `size` pixels."""
    with Image.open(file) as image:
        return ImageOps.pad(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC, BACKGROUND)


def wrapped(label: str) -> str:
    """A label on two lines where it has a comma."""
    return label.replace(", ", ",\n")
