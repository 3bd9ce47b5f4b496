"""The demo graphs on a real server: images that come out, and agree where the mathematics says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from devtools.client import Client
from devtools.pictures import BACKGROUND, CAPTION, GAP, TILE
from devtools.prompts import prompt_for

from .graphs import DEMOS, FOLDER, TASKS, read, saved_images

pytestmark = pytest.mark.slow


def greatest_difference(a: Image.Image, b: Image.Image) -> int:
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_a_demo_makes_its_images(path: Path, ran: Any):
    extra = ("_loss", "_paths", "_samples")
    images = {prefix: batch for prefix, batch in ran(path).items() if not prefix.endswith(extra)}
    assert len(images) >= 4
    for batch in images.values():
        assert len(batch) == (6 if path.stem == "demo_reflow" else 4)
        for image in batch:
            assert image.size == (96, 96)
            assert max(high - low for low, high in image.getextrema()) > 30


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_its_thumbnail_was_made_by_its_own_run(path: Path, ran: Any):
    """The first image of each of its first four branches; after a training on another machine they differ more."""
    trains = any(node["type"] == "D2FTrainLora" for node in read(path)["nodes"])
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        for place, (_, images) in enumerate(sorted(ran(path).items())[:4]):
            left, top = GAP + (place % 2) * (TILE + GAP), GAP + (place // 2) * (TILE + GAP)
            tile = thumbnail.convert("RGB").crop((left, top, left + TILE, top + TILE))
            image = ImageOps.pad(images[0], (TILE, TILE), Image.Resampling.BICUBIC, BACKGROUND)
            assert mean_difference(above_caption(tile), above_caption(image)) < (12 if trains else 4)


def above_caption(tile: Image.Image) -> Image.Image:
    """A quarter of the size, which JPEG leaves as it was."""
    return tile.crop((0, 0, TILE, TILE - CAPTION)).resize((TILE // 4, (TILE - CAPTION) // 4), Image.Resampling.BOX)


def mean_difference(a: Image.Image, b: Image.Image) -> float:
    means = ImageStat.Stat(ImageChops.difference(a, b)).mean
    return sum(means) / len(means)


@pytest.mark.parametrize("task", ["", "_img2img", "_inpaint"])
def test_stock_nodes_make_the_same_images_of_both_models(task: str, ran: Any):
    names = dict(zip(("", "_img2img", "_inpaint"), TASKS))
    images = ran(FOLDER / f"demo_{names[task]}.json")
    pairs = zip(images[f"diff2flow/demo{task}_1_stock"], images[f"diff2flow/demo{task}_2_converted"])
    assert all(greatest_difference(stock, converted) <= 1 for stock, converted in pairs)


def test_the_one_node_and_its_parts_make_the_same_images(ran: Any):
    images = ran(FOLDER / "demo_text_to_image.json")
    pairs = zip(images["diff2flow/demo_3_ode"], images["diff2flow/demo_4_ksampler"])
    assert all(greatest_difference(parts, whole) <= 1 for parts, whole in pairs)


def test_with_the_grid_of_a_stock_scheduler_the_one_node_agrees_too(server: Client):
    prompt = prompt_for("demo_image_to_image")
    (sampler,) = (node for node in prompt.values() if node["class_type"] == "D2FKSampler")
    sampler["inputs"].update({"grid": "stock scheduler", "grid.scheduler": "simple"})
    images = saved_images(server, prompt)
    pairs = zip(images["diff2flow/demo_img2img_1_stock"], images["diff2flow/demo_img2img_3_ksampler"])
    assert all(greatest_difference(stock, ours) <= 1 for stock, ours in pairs)
