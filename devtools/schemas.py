"""The nodes' schemas as plain data: what a saved graph rests on, and whether a change breaks it.

A saved graph keeps the values of widgets by position, links by the names of inputs and the numbers of outputs. So all
three may only grow at their ends. The page puts required inputs before optional ones, and what an option of a dynamic
combo brings along right behind that combo; positions are counted that way here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
LISTED = {"lora", "pairs", "scheduler"}  # combos whose options are files, or the host's
LIMITS = ("default", "min", "max", "step")
REMEDY = "append; node ids and what saved graphs keep are never renamed, a node that must change becomes a new one"

Described = dict[str, Any]


def load(pack: ModuleType) -> dict[str, Any]:
    """{node id: schema} of the pack; in a thread of its own, as this one may have a running event loop."""

    async def classes() -> list[Any]:
        return await (await pack.comfy_entrypoint()).get_node_list()

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: asyncio.run(classes())).result()
    return {schema.node_id: schema for schema in (cls.define_schema() for cls in found)}


def walk(inputs: Collection[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, input) of inputs and of those nested in dynamic combos, which are named `combo.input`."""
    for one in inputs:
        yield prefix + one.id, one
        for option in getattr(one, "options", None) or []:
            yield from walk(getattr(option, "inputs", None) or [], f"{prefix}{one.id}.")


def describe(schema: Any) -> Described:
    """A node's schema as JSON data."""
    outputs = [
        {"name": out.display_name, "type": out.get_io_type(), "list": out.is_output_list} for out in schema.outputs
    ]
    return {"name": schema.display_name, "inputs": [describe_input(one) for one in schema.inputs], "outputs": outputs}


def describe_input(one: Any) -> Described:
    """An input; `control` says that the page puts a widget "control after generate" behind it."""
    described = {"id": one.id, "type": one.get_io_type(), "optional": bool(one.optional)}
    described |= {key: getattr(one, key) for key in LIMITS if getattr(one, key, None) is not None}
    if getattr(one, "control_after_generate", None):
        described["control"] = True
    if getattr(one, "options", None) and one.id not in LISTED:
        described["options"] = describe_options(one.options)
    return described


def describe_options(options: Collection[Any]) -> list[str] | dict[str, list[Described]]:
    if any(hasattr(option, "inputs") for option in options):
        return {option.key: [describe_input(one) for one in option.inputs] for option in options}
    return list(options)


def breaks(old: dict[str, Described], new: dict[str, Described]) -> list[str]:
    """Why graphs saved with `old` would not open with `new`."""
    gone = [f"{node} is gone; {REMEDY}" for node in old if node not in new]
    both = [node for node in old if node in new]
    return gone + [f"{node}: {why}; {REMEDY}" for node in both for why in node_breaks(old[node], new[node])]


def node_breaks(old: Described, new: Described) -> Iterator[str]:
    before, after = ([(out["type"], out["list"]) for out in one["outputs"]] for one in (old, new))
    if after[: len(before)] != before:
        yield f"outputs were {before} and are {after}"
    yield from list_breaks(old["inputs"], new["inputs"], "inputs", True)


def list_breaks(old: list[Described], new: list[Described], where: str, last: bool) -> Iterator[str]:
    """Of a node's inputs, or of those of an option; `last`: no widget of the node comes behind them."""
    for kind, select in (("order", list), ("widgets", positions)):
        before, after = ([one["id"] for one in select(inputs)] for inputs in (old, new))
        if after[: len(before)] != before:
            yield f"{kind} of the {where} was {before} and is {after}"
            return
        if kind == "widgets" and not last and after != before:
            yield f"{where} grow by {after[len(before) :]}, which moves the widgets behind them"
    end = positions(new)[-1:]
    for was, now in zip(old, new):
        yield from input_breaks(was, now, last and [now] == end)
    for one in new[len(old) :]:
        if one["type"] not in WIDGETS and not one["optional"]:
            yield f"the new input {one['id']} is required, and saved graphs do not connect it"


def positions(inputs: list[Described]) -> list[Described]:
    """Widgets in the order of their values in a saved graph."""
    return sorted((one for one in inputs if one["type"] in WIDGETS), key=lambda one: one["optional"])


def input_breaks(old: Described, new: Described, last: bool) -> Iterator[str]:
    name = old["id"]
    if not set(old["type"].split(",")) <= set(new["type"].split(",")):
        yield f"{name} was {old['type']} and is {new['type']}"
    if new["optional"] < old["optional"]:
        yield f"{name} was optional and is required"
    if new.get("control") != old.get("control"):
        yield f"{name} gains or loses its widget 'control after generate'"
    before, after = old.get("options") or [], new.get("options") or []
    if not set(before) <= set(after):
        yield f"{name} lost the options {sorted(set(before) - set(after))}"
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in before:
            yield from list_breaks(before[key], after[key], f"inputs of {name} = {key}", last)
