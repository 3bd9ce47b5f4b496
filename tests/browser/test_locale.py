"""The page in Chinese: names on nodes and in the search box, tooltips and help come from locales/zh and web/docs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from devtools.snapshot import LOCALES, read

from .editor import SLOT_PLACE, WIDGET_PLACE, blank, open_search, place_of

pytestmark = pytest.mark.slow

SHOWN = """(type) => {
  const node = app.graph.nodes.find((n) => n.type === type);
  return {
    title: node.title,
    outputs: node.outputs.map((slot) => slot.localized_name),
    widgets: Object.fromEntries(node.widgets.filter((widget) => widget.name !== 'control_after_generate')
      .map((widget) => [widget.name, widget.label])),
  };
}"""
CHOOSE = """([type, name, value]) => {
  app.graph.nodes.find((n) => n.type === type).widgets.find((widget) => widget.name === name).value = value;
}"""
NAMED = "(name) => app.graph.nodes.some((n) => n.widgets?.some((widget) => widget.name === name && widget.label))"
CUT_OFF = """(help) => {
  const right = help.getBoundingClientRect().right + 1;
  return [...help.querySelectorAll('*')].filter((part) => part.getBoundingClientRect().right > right)
    .map((part) => part.textContent);
}"""


@pytest.fixture(scope="module")
def chinese(new_page: Callable[..., Any]) -> Iterator[Any]:
    """The page of a user who has chosen Chinese, with two nodes on it."""
    page = new_page({"Comfy.Locale": "zh"})
    blank(page, ("D2FConvert", 500, 200), ("D2FKSampler", 900, 200))
    yield page
    page.close()


@pytest.fixture(scope="module")
def words() -> dict[str, Any]:
    return read(LOCALES / "zh" / "nodeDefs.json")


def names(entries: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in entries.values()]


def test_nodes_carry_their_chinese_names(chinese, words, picture):
    chinese.evaluate(CHOOSE, ["D2FKSampler", "solver", "dopri5"])
    chinese.wait_for_function(NAMED, arg="solver.rtol")
    for node in ("D2FConvert", "D2FKSampler"):
        shown = chinese.evaluate(SHOWN, node)
        assert shown["title"] == words[node]["display_name"]
        assert shown["outputs"] == names(words[node]["outputs"])
        expected = {name: words[node]["inputs"][name.replace(".", "_")]["name"] for name in shown["widgets"]}
        assert shown["widgets"] == expected
    assert "solver.rtol" in shown["widgets"]
    picture(chinese)


@pytest.mark.parametrize(
    ("place", "target", "path"),
    [
        (SLOT_PLACE, ["D2FConvert", "outputs", "model"], ("outputs", "0")),
        (SLOT_PLACE, ["D2FConvert", "inputs", "model"], ("inputs", "model")),
        (WIDGET_PLACE, ["D2FConvert", "start"], ("inputs", "start")),
    ],
    ids=["output", "input", "widget"],
)
def test_tooltips_are_chinese(chinese, words, picture, place, target, path):
    kind, name = path
    wanted = words["D2FConvert"][kind][name]["tooltip"]
    chinese.mouse.move(20, 900)
    x, y = place_of(chinese, place, target)
    chinese.mouse.move(x - 3, y)
    chinese.mouse.move(x, y, steps=3)
    tooltip = chinese.locator(".node-tooltip", has_text=wanted)
    tooltip.wait_for(state="visible")
    picture(chinese)
    assert tooltip.inner_text() == wanted


def test_nodes_are_found_by_their_chinese_name(chinese, words):
    chinese.mouse.move(20, 900)
    open_search(chinese, 300, 800).fill(words["D2FTrajectory"]["display_name"][:4])
    chinese.locator("[role=option]", has_text=words["D2FTrajectory"]["display_name"]).first.wait_for()
    chinese.keyboard.press("Escape")


def test_the_help_is_chinese_and_fits_its_column(chinese, words, picture):
    for node, entry in words.items():
        blank(chinese, (node, 300, 120))
        chinese.evaluate("() => app.canvas.selectItems(app.graph.nodes)")
        chinese.get_by_test_id("info-button").click()
        help_text = chinese.locator(".node-help-content")
        help_text.get_by_role("heading", name=entry["display_name"], exact=True).wait_for()
        assert help_text.evaluate(CUT_OFF) == [], node
        if node == "D2FTrainLora":
            picture(chinese)
        chinese.get_by_test_id("info-button").click()
