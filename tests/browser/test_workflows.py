"""The example graphs in the real editor: they open without complaint, mean what we think, and run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools.client import Client
from devtools.workflow import to_prompt

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
FILES = sorted(FOLDER.glob("*.json"))
PACK = "diff2flow-kit"

READY = """() => window.LiteGraph?.registered_node_types.D2FConvert && window.app?.canvas
  && app.extensionManager.workflow?.activeWorkflow && app.graph.nodes.length > 0"""
UNKNOWN_NODES = "() => app.graph.nodes.filter((n) => !LiteGraph.registered_node_types[n.type]).map((n) => n.type)"
RED_LINKS = """() => [...app.graph.links.values()].filter((link) => {
  const output = app.graph.getNodeById(link.origin_id)?.outputs[link.origin_slot];
  const input = app.graph.getNodeById(link.target_id)?.inputs[link.target_slot];
  return !output || !input || !LiteGraph.isValidConnection(output.type, input.type);
}).map((link) => link.id)"""
PROMPT = "async () => JSON.stringify((await app.graphToPrompt()).output)"
SAVED_IMAGES = """() => app.graph.nodes.filter((n) => n.type === 'SaveImage').map(
  (n) => (n.imgs ?? []).filter((image) => image.complete && image.naturalWidth > 0).length)"""
TRAINER = "app.graph.nodes.find((n) => n.type === 'D2FTrainLora')"
SET_WIDGETS = """([type, values]) => {
  for (const node of app.graph.nodes.filter((n) => n.type === type)) {
    for (const widget of node.widgets) widget.value = values[widget.name] ?? widget.value;
  }
}"""
LOOK_AT_TRAINER = f"""() => {{
  const node = {TRAINER}, view = app.canvas.ds;
  view.scale = 0.6;
  view.offset = [400 - node.pos[0], 100 - node.pos[1]];
  app.canvas.setDirty(true, true);
}}"""
TRAINER_TEXT = f"() => {TRAINER}.widgets.find((w) => w.name === '$$node-text-preview')?.value ?? ''"
TRAINER_PICTURES = f"() => ({TRAINER}.imgs ?? []).filter((image) => image.naturalWidth > 300).length"
WIDGET_PLACE = """(name) => {
  const node = app.graph.nodes[0], widget = node.widgets.find((w) => w.name === name);
  const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10]);
  const box = app.canvas.canvas.getBoundingClientRect();
  return [x + box.x, y + box.y];
}"""


@pytest.fixture(scope="module")
def new_page(browser_context: Any, server: Client) -> Callable[[], Any]:
    """`new_page()` is the editor with its default graph, as for a user who has seen its welcome before."""
    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.RightSidePanel.IsOpen": False})

    def make() -> Any:
        page = browser_context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.add_init_script("localStorage.clear(); sessionStorage.clear();")
        page.goto(server.url, wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=60_000)
        page.wait_for_timeout(1000)
        return page

    return make


@pytest.fixture(scope="module")
def editor(new_page: Callable[[], Any]) -> Iterator[Any]:
    """One page for all tests that only look at graphs."""
    page = new_page()
    yield page
    page.close()


@pytest.fixture
def page(new_page: Callable[[], Any]) -> Iterator[Any]:
    """A page of its own for a test that clicks about."""
    page = new_page()
    yield page
    page.close()


@pytest.fixture
def picture(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Path]:
    """`picture(page)` saves a screenshot, in `D2F_PICTURES` if that is set."""
    folder = Path(os.environ.get("D2F_PICTURES") or tmp_path)

    def take(page: Any) -> Path:
        path = folder / f"{request.node.name}.png"
        page.screenshot(path=path)
        return path

    return take


def open_graph(page: Any, path: Path) -> dict[str, Any]:
    """Open a file in the editor, all of it in view; returns what the file holds."""
    workflow = json.loads(path.read_text(encoding="ascii"))
    page.evaluate("(graph) => app.loadGraphData(graph)", workflow)
    page.wait_for_function("(count) => app.graph.nodes.length === count", arg=len(workflow["nodes"]))
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(500)
    return workflow


def run(page: Any, command: str) -> None:
    page.evaluate("(name) => app.extensionManager.command.execute(name)", command)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_opens_without_complaint_and_means_what_we_send(path: Path, editor: Any, server: Client, picture: Any):
    workflow = open_graph(editor, path)
    picture(editor)
    assert editor.evaluate(UNKNOWN_NODES) == []
    assert editor.evaluate(RED_LINKS) == []
    assert len(workflow["links"]) == editor.evaluate("() => app.graph.links.size")
    assert editor.get_by_role("dialog").count() == 0
    assert editor.get_by_text("Missing Node").count() == 0
    sent = {
        node_id: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for node_id, node in json.loads(editor.evaluate(PROMPT)).items()
    }
    assert to_prompt(workflow, server.object_info()) == sent
    assert editor.errors == []


def test_the_template_browser_opens_it(page: Any, server: Client, picture: Any):
    assert sorted(server.get("/workflow_templates")[PACK]) == [path.stem for path in FILES]
    run(page, "Comfy.BrowseTemplates")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(PACK).first.click()
    dialog.get_by_placeholder("Search").fill("demo_text_to_image")
    page.wait_for_function(
        "() => [...document.querySelectorAll('[role=dialog] img')].some((i) => i.src.startsWith('blob:') && i.width)"
    )
    picture(page)
    dialog.get_by_text("demo_text_to_image", exact=True).first.click()
    page.wait_for_function("() => app.graph.nodes.some((n) => n.type === 'D2FDemoCheckpoint')")
    dialog.wait_for(state="hidden")
    assert page.errors == []


@pytest.mark.parametrize("model", ["sd15", "sd21_v", "sdxl"])
def test_a_missing_checkpoint_can_be_downloaded(model: str, page: Any, picture: Any):
    workflow = open_graph(page, FOLDER / f"{model}_text_to_image.json")
    (loader,) = (node for node in workflow["nodes"] if node["type"] == "CheckpointLoaderSimple")
    page.get_by_text(f"{loader['widgets_values'][0]} is missing").wait_for()
    page.get_by_role("button", name="View details").click()
    page.get_by_role("button").filter(has_text=re.compile(r"^\s*Download\s*$")).wait_for()
    picture(page)


@pytest.mark.slow
def test_run_makes_the_images(page: Any, picture: Any):
    open_graph(page, FOLDER / "demo_text_to_image.json")
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.wait_for_function(f"() => ({SAVED_IMAGES})().every((count) => count === 4)", timeout=120_000)
    picture(page)
    assert page.evaluate(SAVED_IMAGES) == [4, 4, 4, 4]
    assert page.errors == []


@pytest.mark.slow
def test_training_shows_how_it_goes_and_goes_on_after_a_cancel(page: Any, server: Client, picture: Any):
    open_graph(page, FOLDER / "demo_train_lora.json")
    few = {"run_name": "browser", "resume": "auto", "steps": 900, "batch_size": 1, "preview_every": 3}
    page.evaluate(SET_WIDGETS, ["D2FTrainLora", few])
    page.evaluate(SET_WIDGETS, ["KSampler", {"steps": 2}])
    page.evaluate(LOOK_AT_TRAINER)
    run_button = page.get_by_role("button", name="Run", exact=True).first
    run_button.click()
    page.wait_for_function(f"() => ({TRAINER_PICTURES})() === 1 && {TRAINER}.progress > 0", timeout=60_000)
    before = page.evaluate(TRAINER_TEXT)
    assert re.match(r"step \d+ of 900: loss .* steps/s, .* left", before)
    page.wait_for_function(f"(text) => ({TRAINER_TEXT})() !== text", arg=before)
    picture(page)

    page.get_by_role("button", name="Cancel current run").click()
    page.wait_for_function(f"() => !({TRAINER}.progress > 0)")
    while server.get("/queue")["queue_running"]:
        page.wait_for_timeout(100)
    runs = server.base / "output" / "diff2flow" / "runs"
    (state,) = (runs / "browser").rglob("*.safetensors")
    (cancelled,) = (server.base / "output" / "loras" / "diff2flow").glob("browser_step*.safetensors")
    done = int(re.findall(r"step0*(\d+)", cancelled.name)[0])
    assert 3 <= done < 900 and state.stat().st_size > 0

    page.evaluate(SET_WIDGETS, ["D2FTrainLora", {"steps": done + 2}])
    run(page, "Comfy.Canvas.FitView")  # pictures are loaded where they are in view
    run_button.click()
    page.wait_for_function(f"() => ({SAVED_IMAGES})().every((count) => count > 0)", timeout=60_000)
    assert page.evaluate(TRAINER_TEXT).startswith(f"step {done + 2} of {done + 2}")
    assert [path.name for path in runs.glob("browser*")] == ["browser"]
    assert page.errors == []


@pytest.mark.slow
def test_pairs_go_on_after_a_cancel(page: Any, server: Client, picture: Any):
    open_graph(page, FOLDER / "demo_reflow.json")
    few = {"name": "browser", "count": 512, "batch_size": 4, "shard_size": 8}
    page.evaluate(SET_WIDGETS, ["D2FReflowPairs", few])
    page.evaluate(SET_WIDGETS, ["D2FTrainLora", {"steps": 2, "warmup_steps": 0, "batch_size": 2}])
    generator = "app.graph.nodes.find((n) => n.type === 'D2FReflowPairs')"
    run_button = page.get_by_role("button", name="Run", exact=True).first
    run_button.click()
    page.wait_for_function(f"() => {generator}.progress > 0.05", timeout=60_000)
    picture(page)
    page.get_by_role("button", name="Cancel current run").click()
    while server.get("/queue")["queue_running"]:
        page.wait_for_timeout(100)
    pairs = server.base / "output" / "diff2flow" / "pairs" / "browser"
    made = {path: path.stat().st_mtime_ns for path in pairs.glob("shard-*.safetensors")}
    assert made and not (pairs / "manifest.json").exists()

    page.evaluate(SET_WIDGETS, ["D2FReflowPairs", {"count": 4 * len(made) + 48}])
    run(page, "Comfy.Canvas.FitView")
    run_button.click()
    page.wait_for_function(f"() => ({SAVED_IMAGES})().every((count) => count > 0)", timeout=120_000)
    picture(page)
    assert (pairs / "manifest.json").is_file()
    full = [path for path in sorted(made)[:-1] if path.exists()]
    assert full and all(path.stat().st_mtime_ns == made[path] for path in full)
    assert page.errors == []


@pytest.mark.parametrize("alias", ["flow matching", "rectified flow"])
def test_a_node_is_found_by_what_people_call_it(alias: str, page: Any, picture: Any):
    page.evaluate("() => app.graph.clear()")
    page.mouse.dblclick(500, 400)
    page.get_by_placeholder("Add a node...").fill(alias)
    option = page.get_by_role("option").filter(has_text="Convert to Flow Matching").first
    option.wait_for()
    picture(page)
    option.click()
    page.wait_for_function("() => app.graph.nodes.some((n) => n.type === 'D2FConvert')")
    page.wait_for_timeout(500)
    page.mouse.move(700, 400, steps=5)
    page.mouse.click(700, 400)  # the new node hangs on the pointer until it is put down
    page.wait_for_function("() => app.graph.nodes.some((n) => n.type === 'D2FConvert' && !n.flags.ghost)")
    assert page.errors == []


def test_tolerances_appear_for_adaptive_solvers_only(page: Any, picture: Any):
    page.evaluate(
        """() => {
          app.graph.clear();
          const node = LiteGraph.createNode('D2FSampler');
          node.pos = [600, 300];
          app.graph.add(node);
          Object.assign(app.canvas.ds, { scale: 1, offset: [0, 0] });
          app.canvas.setDirty(true, true);
        }"""
    )
    names = "() => app.graph.nodes[0].widgets.map((w) => w.name)"
    for solver, tolerances in (("dopri5", ["solver.rtol", "solver.atol", "solver.max_nfe"]), ("heun", [])):
        page.wait_for_timeout(300)
        page.mouse.click(*page.evaluate(WIDGET_PLACE, "solver"))
        page.locator(".litecontextmenu").get_by_text(solver, exact=True).click()
        page.wait_for_function("(name) => app.graph.nodes[0].widgets[0].value === name", arg=solver)
        picture(page)
        assert page.evaluate(names) == ["solver", *tolerances]
    assert page.errors == []
