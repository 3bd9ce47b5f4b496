"""The blueprints in the real editor: found by name, put down by clicking, wired, and the prompt is what we expect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from devtools.client import Client
from devtools.prompts import alone, settled

from .editor import (
    RED_LINKS,
    UNKNOWN_NODES,
    blank,
    choose,
    click_cancel,
    click_run,
    finish,
    open_search,
    prompt_of,
    show_all,
    wire,
)

FILES = sorted((Path(__file__).resolve().parents[2] / "subgraphs").glob("*.json"))
SAMPLE, TRAIN = (f"{name} (Diff2Flow)" for name in ("Convert and Sample", "Train LoRA from Folder"))
# What the first output of a blueprint goes to.
READERS = {"MODEL": ("KSampler", "model"), "LATENT": ("VAEDecode", "samples"), "LORA_MODEL": ("D2FSaveLora", "lora")}
MUTED, BYPASSED, ON = 2, 4, 0

INSTANCE = "app.graph.nodes.find((n) => n.isSubgraphNode())"
TYPE = f"() => {INSTANCE}.type"
LOADED = f"""() => {{
  const node = {INSTANCE};
  return [node.title, node.subgraph.description, Object.fromEntries(node.widgets.map((w) => [w.name, w.value]))];
}}"""
CONNECT = """([source, output, target, input]) => {
  const of = (type) => app.graph.nodes.find((n) => n.type === type), to = of(target), from = of(source);
  from.connect(from.outputs.findIndex((s) => s.name.toLowerCase() === output), to,
               to.inputs.findIndex((s) => s.name === input));
}"""
SET = f"""(values) => {{
  for (const widget of {INSTANCE}.widgets) widget.value = values[widget.name] ?? widget.value;
}}"""
PREVIEW_OFTEN = f"""() => {{
  const trainer = {INSTANCE}.subgraph.nodes.find((n) => n.type === 'D2FTrainLora');
  trainer.widgets.find((w) => w.name === 'preview_every').value = 2;
}}"""
PICTURE_OUTSIDE = f"() => document.querySelector(`[data-node-id='${{{INSTANCE}.id}}'] img`)?.naturalWidth > 300"
OPEN = f"() => app.canvas.openSubgraph({INSTANCE}.subgraph, {INSTANCE})"
CLOSE = "() => app.canvas.setGraph(app.graph.rootGraph)"


@pytest.fixture
def bench(editor: Any) -> Iterator[Any]:
    """The page, on its main graph again afterwards."""
    yield editor
    editor.evaluate(CLOSE)


def put_down(page: Any, name: str, picture: Any) -> str:
    """Find a blueprint in the search box, click it and the canvas; the type of the new node."""
    box = open_search(page)
    box.fill(name)
    page.get_by_role("option").filter(has_text=name).first.wait_for()
    picture(page, "search")
    choose(page, name, 250)
    page.wait_for_function(f"() => {INSTANCE}")
    return str(page.evaluate(TYPE))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_found_put_down_and_wired_and_means_what_we_send(path: Path, bench: Any, picture: Any):
    graph = json.loads(path.read_text(encoding="ascii"))
    (node,) = graph["nodes"]
    kind, socket = READERS[node["outputs"][0]["type"]]
    blank(bench, ("D2FDemoCheckpoint", 100, 150), (kind, 1150, 150))
    instance = put_down(bench, path.stem, picture)
    names = [slot["name"] for slot in node["inputs"] if slot.get("widget")]
    expected = [
        path.stem,
        graph["extra"]["BlueprintDescription"],
        dict(zip(names, node["widgets_values"], strict=True)),
    ]
    assert bench.evaluate(LOADED) == expected
    sent = alone(prompt_of(bench))
    assert sent == settled(path.stem, sent)

    wire(bench, ("D2FDemoCheckpoint", "model"), (instance, "model"))
    wire(bench, (instance, node["outputs"][0]["name"]), (kind, socket))
    for name in {"clip", "vae"} & {slot["name"] for slot in node["inputs"]}:
        bench.evaluate(CONNECT, ["D2FDemoCheckpoint", name, instance, name])
    bench.evaluate(SET, {"steps": 123, "name": "something", "solver": "dopri5", "count": 77})
    picture(bench)
    assert bench.evaluate(UNKNOWN_NODES) == []
    assert bench.evaluate(RED_LINKS) == []
    sent = prompt_of(bench)
    (reader,) = (one for key, one in sent.items() if one["class_type"] == kind and ":" not in key)
    assert ":" in reader["inputs"][socket][0]
    assert 123 in [one["inputs"].get("steps") for key, one in sent.items() if ":" in key]

    bench.evaluate(OPEN)
    show_all(bench)
    picture(bench, "inside")
    assert bench.evaluate(RED_LINKS) == []
    bench.wait_for_load_state("networkidle")  # what is missing is complained of once the server has been asked
    assert bench.get_by_test_id("error-overlay").count() == 0
    assert bench.errors == []


@pytest.mark.slow
def test_run_makes_an_image_of_it(page: Any, server: Client, picture: Any):
    blank(page, ("D2FDemoCheckpoint", 100, 100), ("CLIPTextEncode", 100, 260), ("EmptyLatentImage", 100, 520),
          ("VAEDecode", 1100, 100), ("SaveImage", 1100, 250))  # fmt: skip
    instance = put_down(page, SAMPLE, picture)
    loader, text = "D2FDemoCheckpoint", "CLIPTextEncode"
    for link in (
        [loader, "clip", text, "clip"],
        [loader, "model", instance, "model"],
        [text, "conditioning", instance, "positive"],
        [text, "conditioning", instance, "negative"],
        ["EmptyLatentImage", "latent", instance, "latent_image"],
        [instance, "latent", "VAEDecode", "samples"],
        [loader, "vae", "VAEDecode", "vae"],
        ["VAEDecode", "image", "SaveImage", "images"],
    ):
        page.evaluate(CONNECT, link)
    page.evaluate(SET, {"steps": 4, "seed": 5})
    page.evaluate("() => { for (const w of app.graph.nodes.find((n) => n.type === 'EmptyLatentImage').widgets) "
                  "w.value = { width: 96, height: 96, batch_size: 1 }[w.name]; }")  # fmt: skip
    page.evaluate("() => app.canvas.deselectAll()")
    prompt_id, sent = click_run(page)
    assert [one["inputs"]["noise_seed"] for one in sent.values() if one["class_type"] == "SamplerCustom"] == [5]
    assert finish(page, server, prompt_id)
    picture(page)
    assert page.errors == []


@pytest.mark.slow
def test_training_shows_its_picture_outside(new_page: Any, server: Client, picture: Any):
    """In the editor's newer look, where a subgraph's node shows what it exposes."""
    folder = server.base / "input" / "outside"
    folder.mkdir(exist_ok=True)
    for i in range(2):
        Image.new("RGB", (128, 128), (60 * i, 200, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a green cube", encoding="utf-8")
    page = new_page({"Comfy.VueNodes.Enabled": True})
    try:
        blank(page, ("D2FDemoCheckpoint", 100, 150))
        instance = put_down(page, TRAIN, picture)
        for name in ("model", "clip", "vae"):
            page.evaluate(CONNECT, ["D2FDemoCheckpoint", name, instance, name])
        page.evaluate(SET, {"folder": "outside", "resolution": 128, "name": "outside", "steps": 400})
        page.evaluate(PREVIEW_OFTEN)
        click_run(page)
        page.wait_for_function(PICTURE_OUTSIDE)
        picture(page)
        click_cancel(page, server)
        assert page.errors == []
    finally:
        page.close()
