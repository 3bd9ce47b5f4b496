"""The demo graphs on a real server: images that come out, and agree where the mathematics says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from devtools.cards import CARDS, card
from devtools.client import Client
from devtools.demo import node_titles
from devtools.prompts import prompt_for

from .graphs import DEMOS, FOLDER, OWN, own_prompt, read, saved_images

pytestmark = pytest.mark.slow


SOLID = ("1_black_2_after", "2_white_2_after")  # pictures that shall be of one colour


def greatest_difference(a: Image.Image, b: Image.Image) -> int:
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_a_demo_makes_its_images(path: Path, ran: Any):
    extra = ("_loss", "_paths", "_samples")
    images = {prefix: batch for prefix, batch in ran(path).items() if not prefix.endswith(extra)}
    assert images
    for prefix, batch in images.items():
        assert len(batch) == (6 if path.stem == "05 Few steps" else 4)
        for image in batch:
            assert image.size == (96, 96)
            assert prefix.endswith(SOLID) or max(high - low for low, high in image.getextrema()) > 30


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_the_pictures_on_its_card_are_of_its_own_run(path: Path, ran: Any, tmp_path: Path):
    """After a training on another machine they differ more."""
    trains = any(node["type"] == "D2FTrainLora" for node in read(path)["nodes"])
    titles, prompt = node_titles(read(path)), prompt_for(path.stem)
    titles = {node["inputs"].get("filename_prefix"): titles[key] for key, node in prompt.items()}
    branches = []
    for prefix, images in ran(path).items():
        images[0].save(tmp_path / f"{len(branches)}.png")
        branches.append((titles[prefix], [str(tmp_path / f"{len(branches)}.png")]))
    expected = card(CARDS[path.stem], branches).resize((128, 128), Image.Resampling.BOX)
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        found = thumbnail.convert("RGB").resize((128, 128), Image.Resampling.BOX)
    assert mean_difference(found, expected) < (6 if trains else 2)


def mean_difference(a: Image.Image, b: Image.Image) -> float:
    means = ImageStat.Stat(ImageChops.difference(a, b)).mean
    return sum(means) / len(means)


@pytest.mark.parametrize(
    ("path", "task"),
    [(OWN / "text_to_image", ""), (OWN / "image_to_image", "_img2img"), (FOLDER / "11 Inpaint.json", "_inpaint")],
    ids=["text", "image", "inpaint"],
)
def test_stock_nodes_make_the_same_images_of_both_models(path: Path, task: str, ran: Any):
    images = ran(path)
    pairs = zip(images[f"diff2flow/demo{task}_1_stock"], images[f"diff2flow/demo{task}_2_converted"])
    assert all(greatest_difference(stock, converted) <= 1 for stock, converted in pairs)


def test_the_one_node_and_its_parts_make_the_same_images(ran: Any):
    images = ran(OWN / "text_to_image")
    pairs = zip(images["diff2flow/demo_3_ode"], images["diff2flow/demo_4_ksampler"])
    assert all(greatest_difference(parts, whole) <= 1 for parts, whole in pairs)


def test_with_the_grid_of_a_stock_scheduler_the_one_node_agrees_too(server: Client):
    prompt = own_prompt("image_to_image")
    (sampler,) = (node for node in prompt.values() if node["class_type"] == "D2FKSampler")
    sampler["inputs"].update({"grid": "stock scheduler", "grid.scheduler": "simple"})
    images = saved_images(server, prompt)
    pairs = zip(images["diff2flow/demo_img2img_1_stock"], images["diff2flow/demo_img2img_3_ksampler"])
    assert all(greatest_difference(stock, ours) <= 1 for stock, ours in pairs)
