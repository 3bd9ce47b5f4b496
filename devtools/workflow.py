"""A saved graph (what the editor saves) to a prompt (what the API takes), as the editor itself does it.

A saved node keeps the values of its widgets as a plain list. Their names come from the server's own
definition of the node, in order; the values of a link, if there is one, win. What is only there for
the eye (notes, reroutes) and what is switched off (muted, bypassed) does not reach the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .console import DevError

DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", DYNAMIC_COMBO}
SEEDS = {"seed", "noise_seed"}
PASSIVE = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
MUTED, BYPASSED = 2, 4

Node = dict[str, Any]
Source = tuple[int, int]  # id of a node, index of its output


@dataclass
class Graph:
    """A saved graph: its nodes by id, and where each link comes from."""

    nodes: dict[int, Node]
    links: dict[int, Source]


def read_graph(workflow: dict[str, Any]) -> Graph:
    nodes = {node["id"]: node for node in workflow["nodes"]}
    return Graph(nodes, dict(read_link(link) for link in workflow.get("links", [])))


def read_link(link: Any) -> tuple[int, Source]:
    """A link is a list in older files and an object in newer ones."""
    if isinstance(link, dict):
        return link["id"], (link["origin_id"], link["origin_slot"])
    return link[0], (link[1], link[2])


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The prompt that the editor would send for `workflow`; `object_info` is the server's."""
    graph = read_graph(workflow)
    prompt = {}
    for node in graph.nodes.values():
        if node["type"] in PASSIVE or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if node["type"] not in object_info:
            raise DevError(f"The graph's node {node['id']} is a {node['type']}, which this ComfyUI does not have.")
        inputs = widget_values(node, object_info[node["type"]])
        inputs.update(linked_inputs(node, graph))
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def linked_inputs(node: Node, graph: Graph) -> dict[str, Any]:
    """{input name: [node id, output index]} for the inputs that a link feeds."""
    result = {}
    for socket in node.get("inputs") or []:
        source = resolve(graph, socket.get("link"))
        if source is not None:
            result[socket["name"]] = [str(source[0]), source[1]]
    return result


def resolve(graph: Graph, link: int | None) -> Source | None:
    """Follow a link upstream through reroutes and bypassed nodes to the output that feeds it."""
    while link is not None:
        node_id, slot = graph.links[link]
        node = graph.nodes[node_id]
        mode = node.get("mode", 0)
        if mode == MUTED or node["type"] == "PrimitiveNode":
            return None
        if node["type"] == "Reroute":
            link = node["inputs"][0].get("link")
        elif mode == BYPASSED:
            link = passed_through(node, slot)
        else:
            return node_id, slot
    return None


def passed_through(node: Node, slot: int) -> int | None:
    """The link that a bypassed node hands on at output `slot`: same place if the type fits, else the first."""
    kind, inputs = node["outputs"][slot]["type"], node.get("inputs") or []
    order = inputs[slot : slot + 1] + inputs
    return next((socket.get("link") for socket in order if socket["type"] == kind), None)


def widget_values(node: Node, definition: dict[str, Any]) -> dict[str, Any]:
    """{widget name: value} of a saved node."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return dict(saved)
    values, result = iter(saved), {}
    for group in ("required", "optional"):
        for name, spec in in_order(definition, group):
            result.update(take_widget(name, spec, values))
    return result


def in_order(definition: dict[str, Any], group: str) -> Iterator[tuple[str, list[Any]]]:
    specs = definition["input"].get(group) or {}
    order = (definition.get("input_order") or {}).get(group) or list(specs)
    return ((name, specs[name]) for name in order)


def take_widget(name: str, spec: list[Any], values: Iterator[Any]) -> dict[str, Any]:
    """Take what belongs to the input `name` off the saved values; nothing if it has no widget."""
    kind, options = spec[0], (spec[1] if len(spec) > 1 else None) or {}
    if not has_widget(kind, options):
        return {}
    try:
        value = next(values)
        if draws_anew(name, kind, options):
            next(values, None)
    except StopIteration:
        return {name: options["default"]} if "default" in options else {}
    result = {name: value}
    if kind == DYNAMIC_COMBO:
        result.update(take_option(name, value, options, values))
    return result


def take_option(name: str, key: Any, options: dict[str, Any], values: Iterator[Any]) -> dict[str, Any]:
    """The widgets that the chosen option of a dynamic combo brings; their names start with the combo's."""
    chosen = next((option for option in options.get("options", []) if option["key"] == key), None)
    result: dict[str, Any] = {}
    for group in ("required", "optional"):
        for child, spec in ((chosen or {}).get("inputs", {}).get(group) or {}).items():
            result.update(take_widget(f"{name}.{child}", spec, values))
    return result


def has_widget(kind: Any, options: dict[str, Any]) -> bool:
    """Whether the editor draws a widget for an input of this type."""
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or options.get("widgetType", kind) in WIDGETS


def draws_anew(name: str, kind: Any, options: dict[str, Any]) -> bool:
    """Whether the widget is followed by one that says how its value changes after a run."""
    wish = options.get("control_after_generate")
    if kind == "INT" and wish is None:
        return name.rpartition(".")[2] in SEEDS
    return bool(wish)
