"""Where the links of a saved graph lead: through reroutes, bypassed nodes, and in and out of subgraphs.

A subgraph is stored once, among the graph's definitions; a node of its type is an instance of it. Inside, a link
from node -10 comes from the instance's inputs, and one to node -20 leads to its outputs. An input of the instance
that nothing is linked to may have a widget: that of the node inside, promoted, with a value of its own. The editor
names a node inside of instances by the path to it, "outer:inner".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .console import DevError

INPUT_NODE = -10
MUTED, BYPASSED = 2, 4

Node = dict[str, Any]


class Link(NamedTuple):
    """Ids of nodes, and the places of their sockets."""

    origin: int
    output: int
    target: int
    input: int


@dataclass(frozen=True)
class Constant:
    """What a promoted widget gives to an input."""

    value: Any


Source = list[Any] | Constant | None  # [node, output] as in a prompt; None: nothing comes


@dataclass
class Graph:
    """A saved graph, or the inside of an instance of a subgraph."""

    data: Node
    definitions: dict[str, Node]
    instance: Node | None = None
    outside: Graph | None = None
    insides: dict[Any, Graph] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes: dict[int, Node] = {node["id"]: node for node in self.data["nodes"]}
        self.links = dict(read_link(link) for link in self.data.get("links") or [])

    def name(self, node: Node) -> str:
        """The node's id in a prompt."""
        return f"{self.outside.name(self.instance)}:{node['id']}" if self.outside and self.instance else str(node["id"])

    def inside(self, instance: Node) -> Graph:
        """What an instance of a subgraph holds."""
        if instance["id"] not in self.insides:
            definition = self.definitions[instance["type"]]
            self.insides[instance["id"]] = Graph(definition, self.definitions, instance, self)
        return self.insides[instance["id"]]


def read_graph(workflow: dict[str, Any]) -> Graph:
    subgraphs = (workflow.get("definitions") or {}).get("subgraphs") or []
    return Graph(workflow, {definition["id"]: definition for definition in subgraphs})


def read_link(link: Any) -> tuple[int, Link]:
    """A link is a list in older files and an object in newer ones and in subgraphs."""
    if isinstance(link, dict):
        return link["id"], Link(link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"])
    return link[0], Link(*link[1:5])


def mode(node: Node) -> int:
    return int(node.get("mode") or 0)


def real_nodes(graph: Graph) -> Iterator[tuple[Graph, Node]]:
    """Every node that is no instance, with the graph that it is in.

    As in the editor, switching off an instance takes away what is inside only at the top; further in, the nodes
    have to be switched off themselves (which is what the editor does when one clicks).
    """
    for node in graph.nodes.values():
        if node["type"] not in graph.definitions:
            yield graph, node
        elif graph.outside is not None or mode(node) not in (MUTED, BYPASSED):
            yield from real_nodes(graph.inside(node))


def input_source(graph: Graph, node: Node, place: int, kind: str | None = None) -> Source:
    """What feeds an input; `kind` is the type that is asked for, the input's own if None."""
    socket = node["inputs"][place]
    return None if socket.get("link") is None else link_source(graph, socket["link"], kind or socket["type"])


def link_source(graph: Graph, link: int, kind: str) -> Source:
    origin, output, *_ = graph.links[link]
    if origin == INPUT_NODE:
        return outer_source(graph, output)
    return output_source(graph, graph.nodes[origin], output, kind)


def output_source(graph: Graph, node: Node, place: int, kind: str) -> Source:
    """What really comes out of a node's output, for an input of the type `kind`."""
    if mode(node) == MUTED or node["type"] == "PrimitiveNode":
        return None
    if mode(node) == BYPASSED:
        passed = passed_through(node, place, kind)
        return None if passed is None else input_source(graph, node, passed)
    if node["type"] == "Reroute":
        return input_source(graph, node, 0, kind)
    if node["type"] not in graph.definitions:
        return [graph.name(node), place]
    inside = graph.inside(node)
    links = inside.data["outputs"][place]["linkIds"]
    return link_source(inside, links[0], kind) if links else None


def outer_source(graph: Graph, place: int) -> Source:
    """What feeds an input of a subgraph: a link to the instance, else the instance's promoted widget."""
    assert graph.instance is not None and graph.outside is not None
    name = graph.data["inputs"][place]["name"]
    for index, socket in enumerate(graph.instance.get("inputs") or []):
        if socket["name"] == name and socket.get("link") is not None:
            return input_source(graph.outside, graph.instance, index)
    return promoted_value(graph, graph.instance, place)


def promoted_value(graph: Graph, instance: Node, place: int) -> Constant | None:
    """The instance's own value of an input, None where the node inside keeps its own."""
    values = dict(zip(promoted_names(graph, instance), instance.get("widgets_values") or []))
    value = values.get(graph.data["inputs"][place]["name"])
    return None if value is None else Constant(value)


def promoted_names(graph: Graph, instance: Node) -> list[str]:
    """The inputs that an instance has widgets for, in the order of its values; older editors list them."""
    listed = (instance.get("properties") or {}).get("proxyWidgets")
    if not listed:
        return [entry["name"] for entry in graph.data["inputs"] if is_promoted(graph, entry)]
    if any(str(node) != "-1" for node, *_ in listed):
        raise DevError(
            f"Node {graph.outside and graph.outside.name(instance)} shows widgets of nodes inside of it in an older "
            "form (proxyWidgets); open the graph in ComfyUI 0.30 and save it."
        )
    return [name for _, name, *_ in listed]


def is_promoted(graph: Graph, entry: Node) -> bool:
    """Whether an input of a subgraph leads to a widget."""
    ends = [graph.links[link] for link in entry.get("linkIds") or []]
    return any(graph.nodes[end.target]["inputs"][end.input].get("widget") for end in ends)


def passed_through(node: Node, place: int, kind: str) -> int | None:
    """The input that a bypassed node hands on at output `place`: the same place if it fits, else the first."""
    inputs, made = node.get("inputs") or [], node["outputs"][place]["type"]
    if kind in ("*", ""):
        return place if len(inputs) > place else 0
    fitting = [
        index for index, socket in enumerate(inputs) if fits(socket["type"], made) and fits(socket["type"], kind)
    ]
    if place in fitting:
        return place
    exact = [index for index, socket in enumerate(inputs) if socket["type"] == kind]
    return next(iter(exact + fitting), None)


def fits(one: Any, other: Any) -> bool:
    """Whether the editor lets two types be linked; a type may be a list with commas, or * for any."""
    types = [set(str(kind).lower().split(",")) for kind in (one, other)]
    return any(kinds & {"*", "", "0"} for kinds in types) or bool(types[0] & types[1])
