"""A first LoRA of one's own on the demo checkpoint, by a form, by a blueprint and by hand: how many times one clicks.

What is counted is every press of the mouse button, from an empty canvas (the form: from the page as it opens) to Run; a
double click is two, a wire that is drawn is one. What is typed is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from devtools.client import Client
from devtools.forms import SUFFIX

from .editor import (
    WIDGET_PLACE,
    choose,
    click_card,
    click_run,
    open_search,
    place_of,
    wait_until_idle,
    wire,
)

BY_FORM, BY_BLUEPRINT, BY_HAND = 8, 25, 45
STEPS = "6"
DEMO, TRAIN = "Demo Checkpoint (Diff2Flow)", "Train LoRA from Folder (Diff2Flow)"

COUNT = "() => { window.presses = 0; addEventListener('pointerdown', () => window.presses++, true); }"
PRESSES = "() => window.presses"
APP_MODE = "() => app.extensionManager.workflow.activeWorkflow?.initialMode === 'app'"
RESULT = "() => [...document.images].some((i) => i.src.includes('demo_train') && i.naturalWidth > 90)"
INSTANCE = "() => app.graph.nodes.find((n) => n.isSubgraphNode()).type"

pytestmark = pytest.mark.slow


@pytest.fixture
def counted(page: Any, picture: Any) -> Iterator[Any]:
    """A page that counts presses of the mouse button."""
    page.evaluate(COUNT)
    yield page
    picture(page)
    print(f"{page.evaluate(PRESSES)} presses of the mouse button")
    assert page.errors == []


@pytest.fixture
def made(server: Client) -> Iterator[Callable[[], list[Path]]]:
    """`made()` -> the LoRA files that this test has made."""
    folder = server.base / "output" / "loras"
    before = set(folder.rglob("*.safetensors"))
    yield lambda: sorted(set(folder.rglob("*.safetensors")) - before)


def run(page: Any, server: Client) -> None:
    """Click Run, and wait for the end, which must be a good one."""
    prompt_id, _ = click_run(page)
    wait_until_idle(server, 300)
    record = server.history(prompt_id)
    assert record["status"]["status_str"] == "success", record["status"]["messages"]


def new_canvas(page: Any) -> None:
    page.get_by_role("button", name="Create a new blank workflow").click()
    page.wait_for_function("() => app.graph.nodes.length === 0")


def put_down(page: Any, words: str, title: str, x: int, y: int) -> None:
    """Search for a node with a double click, and put it down at a place of the page."""
    box = open_search(page)
    box.fill(words)
    page.get_by_role("option").filter(has_text=title).first.wait_for()
    choose(page, title, y, x)


def set_widget(page: Any, kind: str, name: str, value: str) -> None:
    """Click a widget and type into the field that opens."""
    page.mouse.click(*place_of(page, WIDGET_PLACE, [kind, name]))
    field = page.locator(".graphdialog .value")
    field.fill(value)
    field.press("Enter")


def test_by_form(counted: Any, server: Client, made: Callable[[], list[Path]]):
    counted.get_by_role("button", name="Templates").first.click()
    click_card(counted, f"02 Train a LoRA{SUFFIX}")
    counted.wait_for_function(APP_MODE)
    steps = counted.locator("input[aria-valuenow='200']")
    box = steps.bounding_box()
    counted.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)  # what lies above it passes it on
    steps.fill(STEPS)
    steps.press("Enter")
    run(counted, server)
    counted.wait_for_function(RESULT)
    assert [path.stem for path in made()] == ["demo"]
    assert counted.evaluate(PRESSES) <= BY_FORM


def test_by_blueprint(counted: Any, server: Client, made: Callable[[], list[Path]]):
    folder = server.base / "input" / "first_lora"
    folder.mkdir(exist_ok=True)
    for i in range(2):
        Image.new("RGB", (96, 96), (60 * i, 200, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a green cube", encoding="utf-8")
    new_canvas(counted)
    put_down(counted, "demo checkpoint", DEMO, 300, 200)
    put_down(counted, "train lora from folder", TRAIN, 800, 200)
    instance = counted.evaluate(INSTANCE)
    for name in ("model", "clip", "vae"):
        wire(counted, ("D2FDemoCheckpoint", name), (instance, name))
    for name, value in (("folder", folder.name), ("resolution", "96"), ("name", "first_lora"), ("steps", STEPS)):
        set_widget(counted, instance, name, value)
    run(counted, server)
    assert [path.stem for path in made()] == ["first_lora"]
    assert counted.evaluate(PRESSES) <= BY_BLUEPRINT


def test_by_hand(counted: Any, server: Client, made: Callable[[], list[Path]]):
    new_canvas(counted)
    put_down(counted, "demo checkpoint", DEMO, 100, 150)
    put_down(counted, "demo scenes", "Demo Scenes (Diff2Flow)", 100, 350)
    put_down(counted, "vae encode", "VAE Encode", 500, 150)
    put_down(counted, "clip text encode", "CLIP Text Encode (Prompt)", 500, 350)
    put_down(counted, "lora trainer", "LoRA Trainer (Diff2Flow)", 1000, 150)
    for source, target in (
        (("D2FDemoCheckpoint", "model"), ("D2FTrainLora", "model")),
        (("D2FDemoCheckpoint", "clip"), ("CLIPTextEncode", "clip")),
        (("D2FDemoCheckpoint", "vae"), ("VAEEncode", "vae")),
        (("D2FDemoScenes", "images"), ("VAEEncode", "pixels")),
        (("D2FDemoScenes", "captions"), ("CLIPTextEncode", "text")),
        (("VAEEncode", "latent"), ("D2FTrainLora", "latents")),
        (("CLIPTextEncode", "conditioning"), ("D2FTrainLora", "positive")),
    ):
        wire(counted, source, target)
    set_widget(counted, "D2FTrainLora", "steps", STEPS)
    run(counted, server)
    assert [path.stem for path in made()] == ["my_lora"]
    assert counted.evaluate(PRESSES) <= BY_HAND
