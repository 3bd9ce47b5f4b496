"""The example graphs, and what a server makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from devtools.client import Client
from devtools.demo import demo_graphs
from devtools.forms import graph_files
from devtools.prompts import Prompt

FOLDER = Path(__file__).resolve().parents[3] / "workflows"
FILES = graph_files()
DEMOS = demo_graphs()
OWN = Path(__file__).parent / "prompts"  # of graphs that are no example, but say what is equal
BYPASSED = 4  # the mode of a node that the page leaves out, with a wire in its place


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="ascii"))


def own_prompt(name: str) -> Prompt:
    return json.loads((OWN / f"{name}.json").read_text(encoding="ascii"))


def in_small(prompt: Prompt, small: dict[str, dict[str, Any]]) -> Prompt:
    """`prompt` with the demo model in a checkpoint's place, and with the inputs that `small` has by class of node.

    Where ModelSamplingSD3 stands behind the checkpoint, that is the flow twin.
    """
    is_flow = any(node["class_type"] == "ModelSamplingSD3" for node in prompt.values())
    for node in prompt.values():
        node["inputs"].update(small.get(node["class_type"], {}))
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type="D2FDemoCheckpoint", inputs={"model": "flow, loaded as eps"} if is_flow else {})
    return prompt


def behind_shift(prompt: Prompt, graph: dict[str, Any]) -> Prompt:
    """`prompt` of a graph once its ModelSamplingSD3, which is bypassed behind the checkpoint, is switched on."""
    (loader,) = (node for node in graph["nodes"] if node["type"] == "CheckpointLoaderSimple")
    (shift,) = (node for node in graph["nodes"] if node["type"] == "ModelSamplingSD3")
    assert shift["mode"] == BYPASSED and loader["outputs"][0]["links"] == [shift["inputs"][0]["link"]]
    before, after = [str(loader["id"]), 0], [str(shift["id"]), 0]
    for node in prompt.values():
        node["inputs"] = {name: after if value == before else value for name, value in node["inputs"].items()}
    inputs = {"model": before, "shift": shift["widgets_values"][0]}
    return {**prompt, after[0]: {"class_type": "ModelSamplingSD3", "inputs": inputs}}


def saved_images(server: Client, prompt: Prompt) -> dict[str, list[Image.Image]]:
    """Run a prompt; {file name prefix: images}."""
    return images_of(server, prompt, server.run(prompt, seconds=900).outputs)


def images_of(server: Client, prompt: Prompt, outputs: dict[str, Any]) -> dict[str, list[Image.Image]]:
    """{file name prefix: images} of a prompt that was run."""
    return {
        node["inputs"]["filename_prefix"]: [load(server, image) for image in outputs[node_id]["images"]]
        for node_id, node in prompt.items()
        if node["class_type"] == "SaveImage"
    }


def load(server: Client, image: dict[str, str]) -> Image.Image:
    return Image.open(server.base / "output" / image["subfolder"] / image["filename"]).convert("RGB")
