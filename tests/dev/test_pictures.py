"""Sheets of the demo's images: where each lands, and what comes in pairs."""

from pathlib import Path

import pytest


@pytest.fixture
def pictures():
    return pytest.importorskip("devtools.pictures")


@pytest.fixture
def branches(tmp_path: Path, pictures):
    """Two prompts before (red) and after (green) training, two images each, and a wide blue plot."""

    def save(name: str, colour: str, size: tuple[int, int] = (96, 96)) -> str:
        path = tmp_path / f"{name}.png"
        pictures.Image.new("RGB", size, colour).save(path)
        return str(path)

    made = [
        (f"{when}: {what}", [save(f"{when}_{what}_{i}", colour) for i in range(2)])
        for what in ("ball", "box")
        for when, colour in (("Before", "red"), ("After", "green"))
    ]
    return [*made, ("Loss", [save("loss", "blue", (200, 100))])]


def test_images_before_and_after_stand_side_by_side(branches, pictures):
    pairs = pictures.before_and_after(branches)
    assert list(pairs) == ["ball", "box"]
    page = pictures.comparison(pairs)
    middle = pictures.CELL // 2
    for row in range(2):
        y = pictures.HEADING + pictures.GAP + row * (pictures.CELL + pictures.GAP) + middle
        assert page.getpixel((pictures.LABEL_WIDTH + middle, y)) == (255, 0, 0)
        assert page.getpixel((page.width - pictures.GAP - middle, y)) == (0, 128, 0)


def test_graphs_without_pairs_have_none(branches, pictures):
    assert pictures.before_and_after(branches[-1:]) == {}


def test_a_sheet_keeps_the_proportions_of_a_wide_image(branches, pictures):
    page = pictures.sheet(branches)
    top = pictures.GAP + 4 * (pictures.CELL + pictures.GAP)
    x = pictures.LABEL_WIDTH + pictures.CELL // 2
    assert page.getpixel((x, top + pictures.CELL // 2)) == (0, 0, 255)
    assert page.getpixel((x, top + 10)) == pictures.BACKGROUND
