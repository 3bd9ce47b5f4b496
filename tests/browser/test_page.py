"""ComfyUI's own page knows the pack."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_the_page_loads_and_offers_every_node_of_the_pack(page, server):
    served = {name for name, node in server.object_info().items() if node["category"].startswith("Diff2Flow")}
    offered = set(page.evaluate("() => Object.keys(window.LiteGraph.registered_node_types)"))
    assert served
    assert served <= offered
    assert page.errors == []


def test_the_help_of_every_node_is_served(page, server, root):
    for path in sorted((root / "web" / "docs").glob("*.md")):
        reply = page.request.get(f"{server.url}/extensions/diff2flow-kit/docs/{path.name}")
        assert reply.status == 200
        assert reply.text() == path.read_text(encoding="utf-8")


def test_settings_stay_in_the_tests_own_folder(page, server, host_path):
    """A user's own ComfyUI lends its code; its settings are not ours to change."""
    kept = server.base / "user" / "default" / "comfy.settings.json"
    assert json.loads(kept.read_text(encoding="utf-8"))["Comfy.TutorialCompleted"] is True
    assert host_path not in kept.parents
