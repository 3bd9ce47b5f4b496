"""The example graphs as forms: `workflows/NAME.app.json`, which newer pages open as a few fields, Run and the result.

    python dev.py python -m devtools.forms

writes them from their graphs. To a page without forms such a file is an ordinary graph; where it is the only file of
its example, it is the graph itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .console import say
from .paths import ROOT

FOLDER = ROOT / "workflows"
SUFFIX = ".app"


@dataclass(frozen=True)
class Form:
    """Widgets to fill in, as (title or type of the node, widget), and titles of the nodes whose results are shown."""

    fields: tuple[tuple[str, str], ...]
    results: tuple[str, ...]


LOADER = ("CheckpointLoaderSimple", "ckpt_name")
FORMS: Mapping[str, Form] = {
    "02 Train a LoRA": Form(
        (
            ("Training set and prompts", "scenes"),
            ("Training set and prompts", "count"),
            ("Training set and prompts", "prompts"),
            ("D2FTrainLora", "steps"),
            ("D2FTrainLora", "learning_rate"),
            ("D2FTrainLora", "run_name"),
        ),
        ("Samples over the steps", "Before: cyan sphere", "After: cyan sphere"),
    ),
    "03 Train on your photos": Form(
        (
            LOADER,
            ("Your photos", "folder"),
            ("Your photos", "prefix"),
            ("Your photos", "prompts"),
            ("D2FTrainLora", "steps"),
            ("D2FTrainLora", "run_name"),
        ),
        ("Samples over the steps", "Before", "After"),
    ),
    "06 Few steps with your checkpoint": Form(
        (
            LOADER,
            ("D2FReflowPairs", "prompts"),
            ("D2FReflowPairs", "count"),
            ("D2FReflowPairs", "name"),
            ("Train on the pairs", "steps"),
            ("Train on the pairs", "run_name"),
        ),
        ("Before: 4 NFE", "After: 4 NFE", "Teacher: 50 NFE"),
    ),
    "07 Depth of an image": Form(
        (
            LOADER,
            ("Your image", "image"),
            ("Depth by your LoRA", "lora"),
            ("Depth by your LoRA", "ensemble"),
            ("Depth by your LoRA", "resolution"),
            ("Depth by your LoRA", "colors"),
        ),
        ("1 Depth", "2 Raw depth, far is white"),
    ),
}


def graph_of(name: str, folder: Path = FOLDER) -> Path:
    """The file with the graph of an example: NAME.json, or its form where there is no other."""
    plain = folder / f"{name}.json"
    return plain if plain.exists() else folder / f"{name}{SUFFIX}.json"


def graph_files(folder: Path = FOLDER) -> list[Path]:
    """One file of every example, in the order of their names."""
    return sorted({graph_of(path.stem.removesuffix(SUFFIX), folder) for path in folder.glob("*.json")})


def as_form(graph: dict[str, Any], form: Form) -> dict[str, Any]:
    """A graph with what the page needs to show it as a form."""
    nodes = {name: node["id"] for node in graph["nodes"] for name in (node["type"], node.get("title")) if name}
    data = {
        "inputs": [[nodes[node], widget] for node, widget in form.fields],
        "outputs": [nodes[title] for title in form.results],
    }
    return {**graph, "extra": {**graph["extra"], "linearMode": True, "linearData": data}}


def form_text(name: str, folder: Path = FOLDER) -> str:
    """What the file of a form holds."""
    graph = json.loads(graph_of(name, folder).read_text(encoding="ascii"))
    return json.dumps(as_form(graph, FORMS[name]), indent=2) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Write every form, with the thumbnail of its graph."""
    for name in FORMS:
        target = folder / f"{name}{SUFFIX}.json"
        target.write_text(form_text(name, folder), encoding="ascii")
        target.with_suffix(".jpg").write_bytes(graph_of(name, folder).with_suffix(".jpg").read_bytes())
        say(f"wrote {target.relative_to(folder)}")


if __name__ == "__main__":
    write()
