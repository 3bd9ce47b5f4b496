"""Building a graph by hand: nodes are found by what people call them, dragged in, wired and set."""

from __future__ import annotations

from typing import Any

import pytest

from devtools.client import Client

from .editor import NO_OPTIONS, WIDGET_PLACE, blank, choose, open_search, place_of, wire

OPTIONS_SHOW = """(titles) => {
  const options = [...document.querySelectorAll('[role=option]')].map((option) => option.innerText);
  return titles.every((title) => options.some((text) => text.includes(title)));
}"""
VALUES = "() => Object.fromEntries((app.graph.nodes[0].widgets ?? []).map((w) => [w.name, w.value]))"
LINKS = """() => [...app.graph.links.values()].map((link) => {
  const source = app.graph.getNodeById(link.origin_id), target = app.graph.getNodeById(link.target_id);
  return [source.type, source.outputs[link.origin_slot].name, target.type, target.inputs[link.target_slot].name];
})"""


def test_every_node_is_found_by_all_its_aliases(page: Any, server: Client, picture: Any):
    titles: dict[str, list[str]] = {}
    for name, node in server.object_info().items():
        if name.startswith("D2F"):
            assert node["search_aliases"], name
            for alias in node["search_aliases"]:
                titles.setdefault(alias, []).append(node["display_name"])
    blank(page)
    box = open_search(page)
    for alias, nodes in titles.items():
        box.fill("no node is called this")
        page.wait_for_function(NO_OPTIONS)
        box.fill(alias)
        page.wait_for_function(OPTIONS_SHOW, arg=nodes)
    picture(page)
    assert page.errors == []


@pytest.mark.parametrize("loader", ["CheckpointLoaderSimple", "D2FDemoCheckpoint"])
def test_a_node_is_dragged_from_the_search_box_and_wired_to_stock_nodes(loader: str, page: Any, picture: Any):
    blank(page, (loader, 100, 150), ("KSampler", 900, 150))
    open_search(page).fill("rectified flow")
    choose(page, "Convert to Flow Matching", 500)
    page.wait_for_function("() => app.graph.nodes.some((n) => n.type === 'D2FConvert')")
    wire(page, (loader, "model"), ("D2FConvert", "model"))
    wire(page, ("D2FConvert", "model"), ("KSampler", "model"))
    picture(page)
    output = "MODEL" if loader == "CheckpointLoaderSimple" else "model"
    assert page.evaluate(LINKS) == [
        [loader, output, "D2FConvert", "model"],
        ["D2FConvert", "model", "KSampler", "model"],
    ]
    assert page.errors == []


def test_new_nodes_have_the_defaults_of_their_schema(page: Any, server: Client):
    for name, node in server.object_info().items():
        if not name.startswith("D2F"):
            continue
        blank(page, (name, 300, 100))
        inputs = {key: spec for group in node["input"].values() for key, spec in group.items() if len(spec) > 1}
        defaults = {key: spec[1]["default"] for key, spec in inputs.items() if "default" in spec[1]}
        shown = page.evaluate(VALUES)
        assert {key: shown[key] for key in defaults} == defaults, name
    assert page.errors == []


def test_tolerances_appear_for_adaptive_solvers_only(page: Any, picture: Any):
    blank(page, ("D2FSampler", 600, 300))
    shown = "(names) => app.graph.nodes[0].widgets.map((w) => w.name).join() === names"
    for solver, tolerances in (("dopri5", ["solver.rtol", "solver.atol", "solver.max_nfe"]), ("heun", [])):
        page.mouse.click(*place_of(page, WIDGET_PLACE, ["D2FSampler", "solver"]))
        page.locator(".litecontextmenu").get_by_text(solver, exact=True).click()
        page.wait_for_function("(name) => app.graph.nodes[0].widgets[0].value === name", arg=solver)
        page.wait_for_function(shown, arg=",".join(["solver", *tolerances]))
        picture(page, solver)
    assert page.errors == []
