"""The forms: opened from the template browser, they show six fields, Run and the place of the result."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devtools.forms import FORMS, SUFFIX, graph_of
from devtools.prompts import prompt_for

from .editor import FOLDER, open_template, prompt_of

APP_MODE = "() => app.extensionManager.workflow.activeWorkflow?.initialMode === 'app'"
GRAPH_FIELDS = """() => app.graph.extra.linearData.inputs.map(([id, name]) => name)"""


@pytest.mark.parametrize("name", FORMS)
def test_it_opens_as_a_form_with_its_fields_and_means_its_graph(name: str, page: Any, picture: Any):
    open_template(page, f"{name}{SUFFIX}", show=False)
    page.wait_for_function(APP_MODE)
    page.wait_for_timeout(1500)
    picture(page)
    expected = [widget for _, widget in FORMS[name].fields]
    assert page.evaluate(GRAPH_FIELDS) == expected
    text = page.locator("body").inner_text()
    shown = json.loads((FOLDER / f"{name}{SUFFIX}.json").read_text(encoding="ascii"))
    assert len(shown["extra"]["linearData"]["outputs"]) == len(FORMS[name].results)
    assert [widget for widget in expected if widget not in text] == []
    assert page.get_by_role("button", name="Run", exact=True).first.is_visible()
    assert prompt_of(page) == prompt_for(graph_of(name).stem)
    assert page.errors == []
