"""What the example graphs and blueprints mean: the prompts that the page sends for them, `devtools/prompts/NAME.json`.

A saved graph keeps its widgets by position and its subgraphs folded; only the page knows what the API is to get. The
browser tests open every graph and compare. After a change of a graph or of a node's widgets

    python dev.py test --browser --prompts

writes what the page sends now. That of a blueprint is the one of the blueprint alone, its nodes named `0:NODE`.
"""

from __future__ import annotations

import json
import os
from typing import Any

from .paths import ROOT

FOLDER = ROOT / "devtools" / "prompts"
WRITE = "D2F_WRITE_PROMPTS"
"""Environment variable: write prompts instead of comparing them."""

Prompt = dict[str, dict[str, Any]]


def prompt_for(name: str) -> Prompt:
    """The prompt of a graph or blueprint, by the file's name without its ending."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))


def settled(name: str, sent: Prompt) -> Prompt:
    """The prompt on disk, or, when prompts are to be written, the one that the page has sent, after writing it."""
    if os.environ.get(WRITE):
        nodes = (f" {json.dumps(key)}: {json.dumps(node)}" for key, node in sent.items())
        (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(nodes) + "\n}\n", encoding="ascii")
    return prompt_for(name)


def alone(prompt: Prompt) -> Prompt:
    """The nodes inside of a blueprint's instance in a prompt, in one order and under names that do not depend on it."""
    inner = {key: node for key, node in prompt.items() if ":" in key}
    names = {
        key: f"0:{number}" for number, key in enumerate(sorted(inner, key=lambda key: int(key.rpartition(":")[2])))
    }

    def renamed(value: Any) -> Any:
        return [names.get(value[0], value[0]), value[1]] if isinstance(value, list) else value

    nodes = {names[key]: (node["class_type"], node["inputs"]) for key, node in inner.items()}
    return {
        name: {"class_type": kind, "inputs": {key: renamed(inputs[key]) for key in sorted(inputs)}}
        for name, (kind, inputs) in sorted(nodes.items())
    }
