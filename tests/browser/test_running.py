"""The graphs of the demo model, run by a click on Run: they finish, and show their pictures.

A few steps will do here: tests/host runs them as the graphs say.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from devtools.client import Client
from devtools.demo import demo_graphs
from devtools.prompts import prompt_for
from devtools.screenshots import WHOLE, graph_picture

from .editor import SET_WIDGETS, click_run, finish, open_template, photograph

# 12 True black is 02 Train a LoRA with other settings, and tests/host runs it.
DEMOS = [path for path in demo_graphs() if not path.stem.startswith("12")]

SHORT = {
    "D2FTrainLora": {"steps": 12, "preview_every": 6},
    "D2FReflowPairs": {"count": 32},
    "D2FOptimizerOptions": {"warmup_steps": 0},
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_run_makes_the_pictures(path: Path, editor: Any, server: Client, screenshots: Path):
    workflow = open_template(editor, path.stem)
    expected = prompt_for(path.stem)
    for kind, values in () if os.environ.get(WHOLE) else SHORT.items():
        editor.evaluate(SET_WIDGETS, [kind, values])
        for node in expected.values():
            node["inputs"].update(values if node["class_type"] == kind else {})
    prompt_id, sent = click_run(editor)
    assert sent == expected
    shown = finish(editor, server, prompt_id)
    photograph(editor, graph_picture(path.stem), 0.75)
    savers = {str(node["id"]) for node in workflow["nodes"] if node["type"] == "SaveImage"}
    assert savers and savers <= shown.keys()
    assert editor.evaluate("() => app.extensionManager.lastExecutionError") is None
    assert editor.get_by_test_id("error-overlay").count() == 0
    assert editor.errors == []
