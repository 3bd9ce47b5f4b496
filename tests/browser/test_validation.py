"""A fault that is known before the run: the page marks the node at once, names the widget and has the sentence."""

from __future__ import annotations

from typing import Any

from devtools.client import Client

from .editor import SET_WIDGETS, open_template, wait_until_idle


def test_a_bad_name_is_shown_on_the_page_when_run_is_clicked(editor: Any, server: Client, screenshots: Any):
    open_template(editor, "02 Train a LoRA")
    editor.evaluate(SET_WIDGETS, ["D2FTrainLora", {"run_name": "a/../b"}])
    with editor.expect_response(lambda each: each.request.method == "POST" and each.url.endswith("/prompt")) as reply:
        editor.get_by_role("button", name="Run", exact=True).first.click()
    errors = reply.value.json()["node_errors"]
    assert [one["class_type"] for one in errors.values()] == ["D2FTrainLora"]
    overlay = editor.get_by_test_id("error-overlay")
    overlay.wait_for(timeout=10_000)
    assert "rejected the value for run_name" in overlay.inner_text()
    overlay.get_by_role("button", name="View details").click()
    editor.get_by_label("Info for LoRA Trainer (Diff2Flow) - run_name").click()
    editor.get_by_text("leads out of its folder").first.wait_for(timeout=10_000)
    editor.screenshot(path=screenshots / "validation.png")
    server.interrupt()  # what does not need the trainer runs
    wait_until_idle(server)
