"""A saved graph (what the editor saves) to a prompt (what the API takes), as the editor itself does it.

A saved node keeps the values of its widgets as a plain list. Their names come from the server's own
definition of the node, in order; the values of a link, if there is one, win. What is only there for
the eye (notes, reroutes) and what is switched off (muted, bypassed) does not reach the prompt, and
subgraphs are replaced by the nodes inside of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .console import DevError
from .links import BYPASSED, MUTED, Constant, Graph, Node, input_source, mode, read_graph, real_nodes

DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", DYNAMIC_COMBO}
SEEDS = {"seed", "noise_seed"}
PASSIVE = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The prompt that the editor would send for `workflow`; `object_info` is the server's."""
    prompt: dict[str, dict[str, Any]] = {}
    for graph, node in real_nodes(read_graph(workflow)):
        if node["type"] in PASSIVE or mode(node) in (MUTED, BYPASSED):
            continue
        name, kind = graph.name(node), node["type"]
        if kind not in object_info:
            raise DevError(f"The graph's node {name} is a {kind}, which this ComfyUI does not have.")
        inputs = {**widget_values(node, object_info[kind]), **linked_inputs(node, graph)}
        prompt[name] = {"class_type": kind, "inputs": inputs}
    for one in prompt.values():
        one["inputs"] = {name: value for name, value in one["inputs"].items() if not dangling(value, prompt)}
    return prompt


def linked_inputs(node: Node, graph: Graph) -> dict[str, Any]:
    """{input name: [node id, output index], or what a promoted widget says} for the inputs that a link feeds."""
    result = {}
    for place, socket in enumerate(node.get("inputs") or []):
        source = input_source(graph, node, place)
        if source is not None:
            result[socket["name"]] = source.value if isinstance(source, Constant) else source
    return result


def dangling(value: Any, prompt: dict[str, Any]) -> bool:
    """Whether a value is a link to a node that is not there."""
    return isinstance(value, list) and len(value) == 2 and value[0] not in prompt


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


def widget_count(node: Node, definition: dict[str, Any]) -> int:
    """How many values a node as saved should have; fewer or more are those of another version of the node."""
    saved = node.get("widgets_values") or []
    padding = [None] * 100
    values = iter([*saved, *padding])
    for group in ("required", "optional"):
        for name, spec in in_order(definition, group):
            take_widget(name, spec, values)
    return len(saved) + len(padding) - len(list(values))


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
        if draws_anew(name, kind, options) or options.get("image_upload"):
            next(values, None)  # of the widget that the editor puts below
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
