"""What one does in ComfyUI's editor: open a graph, click Run, wire two nodes, take a picture.

`page` is a page of Playwright with the editor in it, as the fixtures `page` and `editor` give it.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

from PIL import Image

from devtools.client import Client
from devtools.forms import SUFFIX, graph_files

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
FILES = graph_files()
PACK = "Diff2Flow Kit"  # the name of its group of templates
MODULE = "diff2flow-kit"
TITLE = 30  # height of a node's title bar, above its position
MARGIN = 20  # of a picture of a whole graph, in pixels

ACTIVE = "(name) => app.extensionManager.workflow.activeWorkflow?.filename.startsWith(name)"
THUMBNAIL = """(name) => {
  const image = document.querySelector(`[data-testid='template-workflow-${name}'] img`);
  return image && image.src.startsWith('blob:') && image.complete && image.naturalWidth > 0;
}"""
UNKNOWN_NODES = "() => app.graph.nodes.filter((n) => !LiteGraph.registered_node_types[n.type]).map((n) => n.type)"
RED_LINKS = """() => [...app.graph.links.values()].filter((link) => {
  const output = app.graph.getNodeById(link.origin_id)?.outputs[link.origin_slot];
  const input = app.graph.getNodeById(link.target_id)?.inputs[link.target_slot];
  return !output || !input || !LiteGraph.isValidConnection(output.type, input.type);
}).map((link) => link.id)"""
PROMPT = "async () => JSON.stringify((await app.graphToPrompt()).output)"
SAVED_IMAGES = """() => Object.fromEntries(app.graph.nodes.filter((n) => n.type === 'SaveImage').map(
  (n) => [n.id, (n.imgs ?? []).filter((image) => image.complete && image.naturalWidth > 0).length]))"""
ALL_NODES = "[app.graph, ...app.graph.subgraphs.values()].flatMap((graph) => graph.nodes)"
SET_WIDGETS = f"""([type, values]) => {{
  for (const node of {ALL_NODES}.filter((n) => n.type === type)) {{
    for (const widget of node.widgets) widget.value = values[widget.name] ?? widget.value;
  }}
}}"""
ADD_NODE = """([type, x, y]) => {
  const node = LiteGraph.createNode(type);
  node.pos = [x, y];
  app.graph.add(node);
}"""
ON_THE_PAGE = """const onThePage = (point) => {
  const [x, y] = app.canvas.ds.convertOffsetToCanvas(point), box = app.canvas.canvas.getBoundingClientRect();
  return [x + box.x, y + box.y];
};"""
SLOT_PLACE = f"""([type, side, name]) => {{
  {ON_THE_PAGE}
  const node = app.graph.nodes.find((n) => n.type === type);
  const slot = node[side].findIndex((s) => s.name.toLowerCase() === name);
  return onThePage(side === 'inputs' ? node.getInputPos(slot) : node.getOutputPos(slot));
}}"""
WIDGET_PLACE = f"""([type, name]) => {{
  {ON_THE_PAGE}
  const node = app.graph.nodes.find((n) => n.type === type), widget = node.widgets.find((w) => w.name === name);
  return onThePage([node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10]);
}}"""
NO_OPTIONS = "() => document.querySelectorAll('[role=option]').length === 0"
LOOK = """([x, y, scale]) => {
  Object.assign(app.canvas.ds, { scale, offset: [-x, -y] });
  app.canvas.deselectAll();
  app.canvas.setDirty(true, true);
}"""
FOCUS = "(wanted) => app.extensionManager.focusMode === wanted || app.extensionManager.toggleFocusMode()"
BOUNDS = f"""() => {{
  const boxes = [...app.graph.nodes.map((n) => [n.pos[0], n.pos[1] - {TITLE}, n.size[0], n.size[1] + {TITLE}]),
                 ...app.graph.groups.map((g) => [...g.pos, ...g.size])];
  const least = (list) => Math.min(...list), most = (list) => Math.max(...list);
  const left = least(boxes.map((b) => b[0])), top = least(boxes.map((b) => b[1]));
  return [left, top, most(boxes.map((b) => b[0] + b[2])) - left, most(boxes.map((b) => b[1] + b[3])) - top];
}}"""


def command(page: Any, name: str) -> None:
    """What is behind a menu entry or a key."""
    page.evaluate("(name) => app.extensionManager.command.execute(name)", name)


def focus(page: Any, wanted: bool) -> None:
    """Hide, or show again, what stands around the canvas."""
    page.evaluate(FOCUS, wanted)


def click_card(page: Any, name: str) -> None:
    """Choose a graph in the template browser, which is open, once its thumbnail is there."""
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(PACK, exact=True).first.click()
    card = dialog.get_by_test_id(f"template-workflow-{name}")
    card.scroll_into_view_if_needed()
    page.wait_for_function(THUMBNAIL, arg=name)
    card.click()
    dialog.wait_for(state="hidden")


def open_template(page: Any, name: str, show: bool = True) -> dict[str, Any]:
    """Open a graph by clicking its card, once its thumbnail is there; returns what the file holds.

    `show` brings the whole graph into view, where the page has not.
    """
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))
    command(page, "Comfy.BrowseTemplates")
    click_card(page, name)
    page.wait_for_function(ACTIVE, arg=name.removesuffix(SUFFIX))
    page.wait_for_function("(count) => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
    if show:
        show_all(page)
    return workflow


def show_all(page: Any) -> None:
    """The whole graph in view, where the pictures in nodes are loaded."""
    command(page, "Comfy.Canvas.FitView")
    page.wait_for_timeout(500)


def blank(page: Any, *nodes: tuple[str, int, int]) -> None:
    """A new workflow with only `nodes` (type, x, y), at natural size with its origin at the canvas's.

    In one that is cleared, new nodes may come with the values that others of their number had.
    """
    command(page, "Comfy.NewBlankWorkflow")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    for node in nodes:
        page.evaluate(ADD_NODE, list(node))
    page.evaluate(LOOK, [0, 0, 1])
    page.wait_for_timeout(300)


def open_search(page: Any, x: int = 700, y: int = 700) -> Any:
    """The search box, as a double click on the empty canvas brings it.

    On a busy machine the two clicks may come too far apart to be one.
    """
    from playwright.sync_api import TimeoutError

    box = page.locator("input[role=combobox]:focus")
    for _ in range(3):
        page.mouse.dblclick(x, y)
        with contextlib.suppress(TimeoutError):
            box.wait_for(timeout=10_000)
            break
    return box


def choose(page: Any, title: str, y: int, x: int = 700) -> None:
    """Click the first hit of the search box, and put the new node, which hangs on the pointer, down at (x, y)."""
    page.get_by_role("option").filter(has_text=title).first.click()
    page.wait_for_function(NO_OPTIONS)
    page.wait_for_function("() => app.graph.nodes.some((n) => n.flags.ghost)")
    page.mouse.move(x, y, steps=5)
    page.mouse.click(x, y)
    page.wait_for_function("() => !app.graph.nodes.some((n) => n.flags.ghost)")


def place_of(page: Any, script: str, which: list[str]) -> list[float]:
    """Where on the page `SLOT_PLACE` or `WIDGET_PLACE` of something is, once it has been drawn."""
    page.wait_for_function(f"(which) => ({script})(which).every(Number.isFinite)", arg=which)
    return page.evaluate(script, which)


def wire(page: Any, source: tuple[str, str], target: tuple[str, str]) -> None:
    """Draw a link with the mouse, from an output (type of the node, name) to an input."""
    start, end = (
        place_of(page, SLOT_PLACE, [kind, side, name])
        for (kind, name), side in ((source, "outputs"), (target, "inputs"))
    )
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=8)
    page.mouse.move(*end, steps=8)
    page.mouse.up()


def prompt_of(page: Any) -> dict[str, Any]:
    """The prompt that the editor makes of its graph, without what is only for the eye."""
    return bare(json.loads(page.evaluate(PROMPT)))


def bare(prompt: dict[str, Any]) -> dict[str, Any]:
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in prompt.items()}


def click_run(page: Any) -> tuple[str, dict[str, Any]]:
    """Click Run; the id that the server gave the prompt, and the prompt that was sent."""
    with page.expect_response(lambda each: each.request.method == "POST" and each.url.endswith("/prompt")) as reply:
        page.get_by_role("button", name="Run", exact=True).first.click()
    answer = reply.value.json()
    assert reply.value.ok and not answer.get("node_errors"), answer
    return answer["prompt_id"], bare(reply.value.request.post_data_json["prompt"])


def click_cancel(page: Any, server: Client) -> None:
    """Click the cross, and wait until the server has stopped."""
    page.get_by_role("button", name="Cancel current run").click()
    wait_until_idle(server)


def wait_until_idle(server: Client, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while any(server.get("/queue").values()):
        assert time.monotonic() < deadline, f"the queue is not empty after {seconds} s"
        time.sleep(0.1)


def finish(page: Any, server: Client, prompt_id: str, seconds: float = 600) -> dict[str, int]:
    """Wait for the end of a run that must succeed, and for its pictures; {node id: how many} by the server's record."""
    wait_until_idle(server, seconds)
    record = server.history(prompt_id)
    assert record["status"]["status_str"] == "success", record["status"]["messages"]
    saved = {key: len(made["images"]) for key, made in record["outputs"].items() if made.get("images")}
    show_all(page)
    page.wait_for_function(
        f"(saved) => Object.entries(({SAVED_IMAGES})()).every(([id, shown]) => shown === saved[id])", arg=saved
    )
    return saved


def photograph(page: Any, path: Path, scale: float) -> None:
    """A picture of the whole graph and nothing else; `scale` is in pixels a unit of the graph.

    Its colours are reduced to a palette, which makes it small enough for the repository.
    """
    viewport, (left, top, width, height) = page.viewport_size, page.evaluate(BOUNDS)
    size = {"width": int(width * scale) + 2 * MARGIN, "height": int(height * scale) + 2 * MARGIN}
    focus(page, True)
    page.set_viewport_size(
        {name: length + 200 for name, length in size.items()}
    )  # its own buttons stand below and right
    page.wait_for_timeout(500)
    page.evaluate(LOOK, [left - MARGIN / scale, top - MARGIN / scale, scale])
    page.wait_for_timeout(2000)
    picture = Image.open(io.BytesIO(page.screenshot(clip={"x": 0, "y": 0, **size}))).convert("RGB")
    picture.quantize(256, Image.Quantize.MEDIANCUT, kmeans=4).save(path, optimize=True)
    page.set_viewport_size(viewport)
    focus(page, False)
