"""Training and making pairs, watched and cancelled in the editor: both show how they go, and go on afterwards."""

from __future__ import annotations

import re
from typing import Any

import pytest

from devtools.client import Client

from .editor import ALL_NODES, SET_WIDGETS, click_cancel, click_run, finish, open_template

TRAINER = "app.graph.nodes.find((n) => n.type === 'D2FTrainLora')"
GENERATOR = "app.graph.nodes.find((n) => n.type === 'D2FReflowPairs')"
LOOK_AT_TRAINER = f"""() => {{
  const node = {TRAINER}, view = app.canvas.ds;
  view.scale = 0.6;
  view.offset = [400 - node.pos[0], 100 - node.pos[1]];
  app.canvas.setDirty(true, true);
}}"""
TEXT = f"() => {TRAINER}.widgets.find((w) => w.name === '$$node-text-preview')?.value ?? ''"
WHOLE = f"""() => {{
  const widget = {TRAINER}.widgets.find((w) => w.name === 'diff2flow_text'), area = widget?.element;
  return area?.clientHeight > 0 && area.scrollHeight <= area.clientHeight;
}}"""
LEFT = f"() => {TRAINER}.widgets.find((w) => w.name === 'diff2flow_text')?.value ?? ''"
SAYS = f"(pattern) => new RegExp(pattern).test(({TEXT})())"
PREVIEWS = f"() => ({TRAINER}.imgs ?? []).filter((image) => image.naturalWidth > 300).length"

pytestmark = pytest.mark.slow


def test_training_shows_how_it_goes_and_goes_on_after_a_cancel(page: Any, server: Client, picture: Any):
    open_template(page, "02 Train a LoRA")
    few = {"run_name": "browser", "resume": "auto", "steps": 900, "batch_size": 1, "preview_every": 3}
    page.evaluate(SET_WIDGETS, ["D2FTrainLora", few])
    page.evaluate(SET_WIDGETS, ["KSampler", {"steps": 2}])
    page.evaluate(LOOK_AT_TRAINER)
    click_run(page)
    page.wait_for_function(f"() => ({PREVIEWS})() === 1 && {TRAINER}.progress > 0")
    page.wait_for_function(SAYS, arg=r"^.* left, step \d+ of 900: loss .* steps/s")
    before, shown = page.evaluate(TEXT), page.evaluate(f"() => [{TRAINER}.progress, {TRAINER}.imgs[0].src]")
    page.wait_for_function(f"(text) => ({TEXT})() !== text", arg=before)
    page.wait_for_function(f"([done, src]) => {TRAINER}.progress > done && {TRAINER}.imgs[0].src !== src", arg=shown)
    picture(page)

    click_cancel(page, server)
    page.wait_for_function(f"() => !({TRAINER}.progress > 0)")
    runs = server.base / "output" / "diff2flow" / "runs"
    state = runs / "browser" / "state.safetensors"
    (cancelled,) = (runs / "browser" / "loras").glob("browser_step*.safetensors")
    done = int(re.findall(r"step0*(\d+)", cancelled.name)[0])
    assert 3 <= done < 900 and state.stat().st_size > 0
    said = f"Stopped after step {done} of 900: saved as diff2flow/browser.safetensors. Run again to go on from there."
    page.wait_for_function(f"(said) => ({LEFT})().startsWith(said)", arg=said)

    page.evaluate(SET_WIDGETS, ["D2FTrainLora", {"steps": done + 2}])
    finish(page, server, click_run(page)[0])
    page.wait_for_function(f"() => /^Done in .*: resumed after step {done}, 2 more steps/.test(({LEFT})())")
    page.wait_for_function(WHOLE)
    assert page.evaluate(TEXT) == ""
    picture(page, "done")
    loaders = f"{ALL_NODES}.filter((n) => ['D2FLoadLora', 'LoraLoader'].includes(n.type))"
    assert page.evaluate(f"() => {loaders}.length") == 1
    listed = f"() => {loaders}.every((n) => n.widgets[0].options.values.includes('diff2flow/browser.safetensors'))"
    page.wait_for_function(listed)
    assert "diff2flow_text" not in page.evaluate("async () => JSON.stringify(await app.graphToPrompt())")
    assert [path.name for path in runs.glob("browser*")] == ["browser"]
    assert page.errors == []


def test_pairs_go_on_after_a_cancel(page: Any, server: Client, picture: Any):
    open_template(page, "05 Few steps")
    many, shard = 4096, 8  # more than can be made before the click
    few = {"name": "browser", "count": many, "batch_size": 4, "shard_size": shard}
    page.evaluate(SET_WIDGETS, ["D2FReflowPairs", few])
    page.evaluate(SET_WIDGETS, ["D2FTrainLora", {"steps": 2, "batch_size": 2}])
    page.evaluate(SET_WIDGETS, ["D2FOptimizerOptions", {"warmup_steps": 0}])
    click_run(page)
    page.wait_for_function(f"() => {GENERATOR}.progress > {3 * shard / many}")
    picture(page, "running")
    click_cancel(page, server)
    pairs = server.base / "output" / "diff2flow" / "pairs" / "browser"
    made = {path: path.stat().st_mtime_ns for path in pairs.glob("shard-*.safetensors")}
    assert made and not (pairs / "manifest.json").exists()

    page.evaluate(SET_WIDGETS, ["D2FReflowPairs", {"count": shard * (len(made) + 2)}])
    finish(page, server, click_run(page)[0])
    picture(page, "finished")
    assert (pairs / "manifest.json").is_file()
    full = [path for path in sorted(made)[:-1] if path.exists()]
    assert full and all(path.stat().st_mtime_ns == made[path] for path in full)
    assert page.errors == []
