"""comfy-test, the ecosystem's own test bench, attached to a running server with the unpacked archive.

Levels that run: syntax, warnings, hazards, install (which only looks, as the server is up already), registration,
javascript, instantiation, static_capture and execution_light. Four do not: `coverage` reads `NODE_CLASS_MAPPINGS` off
the source and finds no node that is registered by `comfy_entrypoint`; `execution` is execution_light plus a video;
`custom` is a hook that the pack has no need of; `validation` takes notes for missing nodes and knows neither the value
behind a seed nor the newer combos, so that it refuses any graph with a stock KSampler.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from devtools.browser import find_browser, installed_by_playwright
from devtools.host import Host, read_version
from devtools.package import export, pack, unpack
from devtools.server import running
from devtools.tools import comfy_test

NAME = "diff2flow-kit"
LEVELS = ["syntax", "warnings", "hazards", "install", "registration", "javascript", "instantiation", "static_capture",
          "execution_light"]  # fmt: skip
CONFIG = """
[test]
levels = {levels}
[test.workflows]
timeout = 600
"""
RUN = ["01 Convert and sample.json"]
OF_THE_USER = {"custom_nodes", "models", "input", "output", "temp", "user", ".git", ".venv", "venv"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    found = find_browser() or installed_by_playwright(Path(sys.executable))
    return found or pytest.skip("there is no Chromium; `python dev.py test` looks for one")


@pytest.fixture(scope="module")
def server(host_path, tmp_path_factory):
    """A copy of ComfyUI with the archive unpacked in its own `custom_nodes`, where comfy-test looks, running."""
    copy = tmp_path_factory.mktemp("bench") / "ComfyUI"
    shutil.copytree(
        host_path, copy, ignore=lambda folder, _: OF_THE_USER if Path(folder) == host_path else ["__pycache__"]
    )
    unpack(pack(export(tmp_path_factory.mktemp("package") / NAME)), copy / "custom_nodes" / NAME)
    for name in checkpoints(copy / "custom_nodes" / NAME / "workflows"):
        (copy / "models" / "checkpoints" / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / "models" / "checkpoints" / name).touch()
    host = Host(copy, read_version(copy))
    with running(host, Path(sys.executable), copy, threads=1, packs={}) as process:
        yield process


@pytest.fixture
def bench(server, browser, tmp_path):
    """`bench(levels, workflows)` -> what comfy-test says of them."""

    def run(levels, workflows):
        (tmp_path / "workflows").mkdir()
        for name, graph in workflows.items():
            (tmp_path / "workflows" / name).write_text(json.dumps(graph), encoding="utf-8")
        config = tmp_path / "comfy-test.toml"
        config.write_text(CONFIG.format(levels=json.dumps(levels)), encoding="utf-8")
        return comfy_test(server.base / "custom_nodes" / NAME, config, server.url, server.base, browser)

    return run


def graphs(folder):
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def checkpoints(folder):
    """The checkpoints that the workflows name; empty files stand for them in the loader's list."""
    nodes = [node for graph in graphs(folder).values() for node in graph["nodes"]]
    return {node["widgets_values"][0] for node in nodes if node["type"] == "CheckpointLoaderSimple"}


def passed(text):
    return [line.split("]")[0][1:].lower() for line in text.splitlines() if line.endswith("] PASSED")]


def test_the_levels_pass(bench, server):
    workflows = graphs(server.base / "custom_nodes" / NAME / "workflows")
    text = bench(LEVELS, {name: workflows[name] for name in RUN})
    assert passed(text) == LEVELS
    assert "PASS" in text and "01 Convert and sample" in text
