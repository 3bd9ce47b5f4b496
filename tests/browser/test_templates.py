"""Every example graph, opened through the template browser: nothing is missing, and it means what we send."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from devtools.client import Client
from devtools.forms import FORMS, SUFFIX
from devtools.prompts import settled

from .editor import FILES, MODULE, RED_LINKS, UNKNOWN_NODES, command, open_template, prompt_of

CLOSE_PANEL = "() => app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', false)"


def hinted(workflow: dict[str, Any]) -> list[str]:
    """The files that a graph says where to download."""
    return sorted({model["name"] for node in workflow["nodes"] for model in node["properties"].get("models", [])})


def complaints(page: Any) -> dict[str, str]:
    """What the panel of errors lists: {kind: text}; opened by its button if there is one."""
    page.get_by_test_id("error-overlay-see-errors").click()
    groups = page.locator("[data-testid^=error-group-]:not([data-testid=error-group-display-message])")
    groups.first.wait_for()
    return {group.get_attribute("data-testid"): group.inner_text() for group in groups.all()}


def test_the_template_browser_has_them_all(server: Client):
    names = {*(f"{name}{SUFFIX}" for name in FORMS), *(path.stem for path in FILES)}
    assert sorted(server.get("/workflow_templates")[MODULE]) == sorted(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_opens_without_complaint_and_means_what_we_send(path: Path, editor: Any, server: Client, picture: Any):
    workflow = open_template(editor, path.stem)
    picture(editor)
    assert editor.evaluate(UNKNOWN_NODES) == []
    assert editor.evaluate(RED_LINKS) == []
    assert len(workflow["links"]) == editor.evaluate("() => app.graph.links.size")
    if path.stem.endswith(SUFFIX):
        command(editor, "Comfy.ToggleLinear")  # a form opens without the graph, and without the panel of errors
    sent = prompt_of(editor)
    assert sent == settled(path.stem, sent)
    editor.wait_for_load_state("networkidle")  # what is missing is complained of once the server has been asked
    assert editor.get_by_role("dialog").count() == 0
    if hinted(workflow):
        offers_what_is_hinted_and_complains_of_nothing_else(editor, hinted(workflow))
    else:
        assert editor.get_by_test_id("error-overlay").count() == 0
    assert editor.errors == []


def offers_what_is_hinted_and_complains_of_nothing_else(page: Any, files: list[str]) -> None:
    """Checkpoints are not there while testing; the editor says so, and offers the download of each."""
    missing = complaints(page)
    page.evaluate(CLOSE_PANEL)
    assert list(missing) == ["error-group-missing-model"]
    (text,) = missing.values()
    assert sorted(set(re.findall(r"\S+\.(?:safetensors|ckpt|pt)\b", text))) == files
    assert len(re.findall(r"^Download$", text, re.MULTILINE)) == len(files)
