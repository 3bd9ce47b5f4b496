"""The example graphs as they open, and the blueprints inside: all text is drawn, nothing overlaps, all is small.

The settings are the page's own; in particular the zoom below which it leaves text out is not touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools.forms import SUFFIX

from .editor import BOUNDS, FILES, TITLE, open_template, show_all

MOST_NODES, MOST_WIDTH, MOST_HEIGHT = 14, 1600, 800
LAPTOP, DESKTOP = ({"width": 1366, "height": 768}, {"width": 1920, "height": 1080})
LOOKS = {"classic": False, "nodes_2": True}
SMALL = [path.stem for path in FILES if not path.stem.endswith(SUFFIX)]
BLUEPRINTS = sorted((Path(__file__).resolve().parents[2] / "subgraphs").glob("*.json"))
LINE_OF_SIZE = 30  # and space below a picture in the classic look
SLACK = 15  # of a size that the page has rounded, or of a wire beside a node's edge

OPENING = """() => ({ scale: app.canvas.ds.scale, blank: app.canvas.low_quality,
  threshold: app.extensionManager.setting.get('LiteGraph.Canvas.MinFontSizeForLOD') })"""
BOXES = f"""() => app.graph.nodes.map((n) => [n.title || n.type, n.pos[0], n.pos[1] - {TITLE}, n.size[0],
  n.size[1] + {TITLE}])"""
# Points inside of a node that the stroke of a wire covers: the wire runs over that node, or under it.
CROSSINGS = f"""() => {{
  const pen = document.createElement('canvas').getContext('2d'), found = [];
  const wires = [...app.graph.links.values(), ...app.graph.reroutes.values()].filter((wire) => wire.path);
  const hits = (wire, [left, top, right, bottom], across, down, width) => {{
    pen.lineWidth = width;
    for (let x = left; x < right; x += across)
      for (let y = top; y < bottom; y += down) if (pen.isPointInStroke(wire.path, x, y)) return true;
    return false;
  }};
  for (const node of app.graph.nodes) {{
    const box = [node.pos[0] + {SLACK}, node.pos[1] - {TITLE} + {SLACK},
                 node.pos[0] + node.size[0] - {SLACK}, node.pos[1] + node.size[1] - {SLACK}];
    const near = wires.filter((wire) => hits(wire, box, 40, 40, 120)); // few points tell which wires are worth many
    found.push(...near.filter((wire) => hits(wire, box, 10, 3, 4)).map((wire) => [node.title || node.type, wire.id]));
  }}
  return [wires.length, found];
}}"""


COVERED = f"""async () => {{
  const made = new Image(), canvas = document.createElement('canvas');
  canvas.width = canvas.height = 512;
  made.src = canvas.toDataURL();
  await made.decode();
  const nodes = app.graph.nodes.filter((node) => ['SaveImage', 'PreviewImage'].includes(node.type));
  for (const node of nodes) node.imgs = [made, made, made, made];
  app.canvas.setDirty(true, true);
  await new Promise((resolve) => setTimeout(resolve, 500));
  return nodes.flatMap((node) => {{
    const view = node.widgets.find((widget) => widget.name === '$$canvas-image-preview');
    const end = node.pos[1] + view.y + view.computedHeight - {LINE_OF_SIZE};
    return app.graph.nodes.filter((other) => other.pos[1] > node.pos[1] && end > other.pos[1] - {TITLE}
      && other.pos[0] < node.pos[0] + node.size[0] && node.pos[0] < other.pos[0] + other.size[0])
      .map((other) => [node.title, other.title]);
  }});
}}"""
"""Nodes whose titles are covered once pictures have come, which are taller than their nodes were."""

OPEN_INSIDE = """async (graph) => {
  await app.loadGraphData(graph);
  const node = app.graph.nodes[0];
  app.canvas.openSubgraph(node.subgraph, node);
}"""


@pytest.fixture(scope="module", params=LOOKS)
def opened(request: pytest.FixtureRequest, new_page: Callable[..., Any]) -> Iterator[Any]:
    """A page in one of the two looks."""
    page = new_page({"Comfy.VueNodes.Enabled": LOOKS[request.param]})
    yield page
    page.close()


def legible_at(page: Any) -> float:
    """The zoom, at which the page must draw all text of what it shows, by its own threshold."""
    view = page.evaluate(OPENING)
    assert view["threshold"] == 8 and not view["blank"], view
    return view["scale"]


@pytest.mark.parametrize("name", SMALL)
def test_a_graph_opens_readable(name: str, opened: Any, picture: Any):
    opened.set_viewport_size(LAPTOP)
    open_template(opened, name, show=False)
    opened.wait_for_timeout(800)
    picture(opened, "laptop")
    zoom = legible_at(opened)
    boxes = opened.evaluate(BOXES)
    assert len(boxes) <= MOST_NODES
    _, _, width, height = opened.evaluate(BOUNDS)
    assert width <= MOST_WIDTH + SLACK and height <= MOST_HEIGHT + SLACK
    assert list(overlaps(boxes)) == []
    wires, crossings = opened.evaluate(CROSSINGS)
    assert wires > 2 and crossings == []
    if not opened.evaluate("() => LiteGraph.vueNodesMode"):
        assert opened.evaluate(COVERED) == []
    opened.set_viewport_size(DESKTOP)
    show_all(opened)
    opened.wait_for_timeout(500)
    picture(opened, "desktop")
    assert legible_at(opened) > zoom  # it has been fitted to the larger page


@pytest.mark.parametrize("size", [LAPTOP, DESKTOP], ids=["laptop", "desktop"])
@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_is_readable_inside(path: Path, size: dict[str, int], opened: Any, picture: Any):
    opened.set_viewport_size(size)
    opened.evaluate(OPEN_INSIDE, json.loads(path.read_text(encoding="ascii")))
    opened.wait_for_timeout(800)
    show_all(opened)
    picture(opened)
    legible_at(opened)
    boxes = opened.evaluate(BOXES.replace("app.graph", "app.canvas.graph"))
    assert len(boxes) > 4
    assert [(one, other) for one, other in overlaps(boxes)] == []


def overlaps(boxes: list[list[Any]]) -> Iterator[tuple[str, str]]:
    for index, (name, x, y, width, height) in enumerate(boxes):
        for other, a, b, c, d in boxes[:index]:
            if x < a + c and a < x + width and y < b + d and b < y + height:
                yield name, other
