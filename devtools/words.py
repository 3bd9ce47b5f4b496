"""The words of the nodes in the form of ComfyUI's translations: what `locales/en` holds.

The page looks a word up as `nodeDefs.<node>.inputs.<name>.tooltip` and the like. Dots inside a name would split that
path, so the page writes `solver_rtol` for `solver.rtol`; outputs go by their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .schemas import walk

MAIN = {
    "nodeCategories": {name: name for name in ("Diff2Flow", "Sample", "Train", "Reflow", "Image to image", "Demo")},
    "templateWorkflows": {"category": {"diff2flow-kit": "Diff2Flow Kit"}},
    "dataTypes": {"D2F_PAIRS": "REFLOW PAIRS", "D2F_SAMPLES": "SAMPLE PROMPTS"},
}

Entry = dict[str, Any]


def key(name: str) -> str:
    """The name of an input as the page looks it up."""
    return name.replace(".", "_")


def node_words(schema: Any) -> Entry:
    """Name, description, inputs and outputs of a node, from its schema."""
    found = walk(schema.inputs)
    inputs = {key(name): {"name": one.display_name or one.id, "tooltip": one.tooltip} for name, one in found}
    outputs = {str(i): {"name": out.display_name, "tooltip": out.tooltip} for i, out in enumerate(schema.outputs)}
    words = {"display_name": schema.display_name, "description": schema.description, "inputs": inputs}
    return words | {"outputs": outputs}


def english(schemas: Mapping[str, Any]) -> dict[str, Entry]:
    """{file of `locales/en`: its content}."""
    return {"nodeDefs.json": {node: node_words(schema) for node, schema in schemas.items()}, "main.json": MAIN}
