"""The pictures of the README and of docs/ come from the browser tests, and all of them are there."""

import re

import pytest

from devtools import screenshots
from devtools.console import DevError
from devtools.screenshots import GRAPHS, graph_picture, republish, screenshot_folder


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Screenshots and the repository's pictures in temporary folders; `made(*graphs)` takes the pictures of a run."""
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "shots").mkdir()
    monkeypatch.setenv("D2F_PICTURES", str(tmp_path / "shots"))
    monkeypatch.setattr(screenshots, "IMAGES", images)

    def take(*graphs):
        for graph in graphs:
            graph_picture(graph).write_text(graph)
        return 0

    take.images = images
    return take


def test_screenshots_lie_in_the_working_directory_or_where_d2f_pictures_says(root, tmp_path):
    assert screenshot_folder({}) == root / ".d2f" / "screenshots"
    assert screenshot_folder({"D2F_PICTURES": str(tmp_path)}) == tmp_path
    assert "/.d2f/" in (root / ".gitignore").read_text(encoding="utf-8")


def test_a_passed_run_brings_its_pictures_into_the_repository(made):
    assert republish(lambda: made(*GRAPHS.values())) == 0
    assert {path.name: path.read_text() for path in made.images.iterdir()} == GRAPHS


def test_a_failed_run_changes_nothing(made):
    assert republish(lambda: made(*GRAPHS.values()) or 1) == 1
    assert list(made.images.iterdir()) == []


def test_pictures_of_an_earlier_run_are_not_taken_for_this_ones(made):
    made(*GRAPHS.values())
    with pytest.raises(DevError, match=r"no picture of 02 Train a LoRA, 07 .*needs all browser tests") as error:
        republish(lambda: made("01 Convert and sample"))
    assert "\n" not in str(error.value)
    assert list(made.images.iterdir()) == []


def test_every_picture_of_the_pages_is_there_and_every_graph_is_made_by_the_table(root):
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    shown = [
        page.parent / path
        for page in pages
        for path in re.findall(r"\]\(((?:docs/)?images/[^)]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert all(path.is_file() for path in shown)
    assert {path.name for path in shown} == {path.name for path in (root / "docs" / "images").glob("*.png")}
    graphs = {path.name for path in (root / "docs" / "images").glob("*_graph.png")}
    assert graphs == set(GRAPHS)
    assert all((root / "workflows" / f"{graph}.json").is_file() for graph in GRAPHS.values())


def test_the_workflow_keeps_the_screenshots(root):
    text = (root / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    step = text.partition("actions/upload-artifact")[2]
    assert "path: .d2f/screenshots" in step
    assert "include-hidden-files: true" in step  # the folder's name begins with a dot
    assert "if: always()" in text
