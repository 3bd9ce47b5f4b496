"""Which nodes made the sigmas of the run that is going on, read off the graph that ComfyUI executes.

Sigmas are numbers only, and those of a diffusion model that lie below 1 look like those of a flow. What they are is
known by the node that made them: some make sigmas of a diffusion model or of a flow without being given a model, some
look at the model that they are given. Nodes that only change sigmas (SplitSigmas, FlipSigmas) lead on to the next.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

FLOW, DIFFUSION, MODEL, UNKNOWN = "flow", "diffusion", "model", "unknown"

KINDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "AlignYourStepsScheduler",
                "ExponentialScheduler",
                "GITSScheduler",
                "KarrasScheduler",
                "LaplaceScheduler",
                "PolyexponentialScheduler",
                "VPScheduler",
            ),
            DIFFUSION,
        ),
        **dict.fromkeys(("Flux2Scheduler", "Ideogram4Scheduler", "LTXVScheduler", "OptimalStepsScheduler"), FLOW),
        **dict.fromkeys(("BasicScheduler", "BetaSamplingScheduler", "SDTurboScheduler", "D2FScheduler"), MODEL),
    }
)
"""Name of a node that makes sigmas -> whose they are: of a flow, of a diffusion model, or of the model it is given."""

CONVERTERS: Mapping[str, str] = MappingProxyType({"D2FConvert": FLOW, "D2FLoadLora": MODEL})
"""Nodes that give a converted MODEL -> what is made by looking at that; the second converts for some LoRAs only."""


@dataclass(frozen=True)
class Maker:
    """A node that makes sigmas.

    Attributes:
        node: name of its class.
        kind: ``FLOW`` or ``DIFFUSION``; ``MODEL`` for sigmas that are probably a flow's, as the node is given a model
            that may be converted and may look at it; or ``UNKNOWN``.
    """

    node: str
    kind: str


def makers_of_this_run() -> tuple[Maker, ...]:
    """The nodes that made the sigmas which the running node is given; none outside of a graph, or if it makes them."""
    running, state = get_executing_context(), get_progress_state()
    if running is None or state.prompt_id != running.prompt_id or not state.dynprompt.has_node(running.node_id):
        return ()
    graph, found, seen = state.dynprompt, dict[Maker, None](), set[str]()
    todo = [source for source, kind in _links(graph, running.node_id) if kind == "SIGMAS"]
    while todo:
        at = todo.pop()
        if at not in seen:
            seen.add(at)
            before = [source for source, kind in _links(graph, at) if kind == "SIGMAS"]
            todo += before
            if not before:
                found[_maker(graph, at)] = None
    return tuple(found)


def _maker(graph: Any, at: str) -> Maker:
    """What is known of a node that makes sigmas."""
    name = graph.get_node(at)["class_type"]
    kind = KINDS.get(name, UNKNOWN)
    if kind in (FLOW, DIFFUSION):
        return Maker(name, kind)
    models = {CONVERTERS.get(graph.get_node(one)["class_type"], UNKNOWN) for one in _before(graph, at)}
    if kind == MODEL and FLOW in models:
        return Maker(name, FLOW)
    return Maker(name, MODEL if models & {FLOW, MODEL} else UNKNOWN)


def _before(graph: Any, at: str) -> Iterator[str]:
    """All nodes that a node depends on."""
    todo, seen = [at], set[str]()
    while todo:
        for source, _ in _links(graph, todo.pop()):
            if source not in seen:
                seen.add(source)
                todo.append(source)
                yield source


def _links(graph: Any, at: str) -> list[tuple[str, str]]:
    """Node and type of each output that is linked to an input of a node; through a switch, the type of the input."""
    node, found = graph.get_node(at), []
    taken: dict[str, Any] = getattr(_class(node), "INPUT_TYPES", dict)()
    types = {id: kind[0] for group in ("required", "optional") for id, kind in taken.get(group, {}).items()}
    for id, value in node["inputs"].items():
        if is_link(value):
            source, slot = value
            gives = getattr(_class(graph.get_node(source)), "RETURN_TYPES", ())
            kind = "SIGMAS" if types.get(id) == "SIGMAS" else gives[slot] if slot < len(gives) else ""
            found.append((source, str(kind)))
    return found


def _class(node: Any) -> Any:
    """The class of a node in a graph; None if the host does not know it."""
    classes = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {})  # loaded wherever a graph runs
    return classes.get(node["class_type"])
