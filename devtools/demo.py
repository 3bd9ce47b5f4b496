"""The demo command: run the graphs `workflows/demo_*.json` on a real server and list what they made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .client import Client, Event, Result
from .console import DevError, Progress, bar, say, table
from .env import python_for
from .host import find_host
from .paths import ROOT
from .server import ADDRESS, running
from .workflow import to_prompt


def demo(folder: Path = ROOT / "workflows", pattern: str = "demo_*.json") -> None:
    """Run every demo graph, in the order of their names; print a table of what was made and where."""
    host = find_host()
    files = sorted(folder.glob(pattern))
    if not files:
        raise DevError(f"There are no graphs {pattern} in {folder}.")
    python = python_for(host)
    say(f"Starting ComfyUI {host.version} ...")
    with running(host, python) as server:
        client = Client(ADDRESS, server.port, server.alive)
        definitions = client.object_info()
        rows = [run_file(client, file, definitions, server.base / "output") for file in files]
        output = server.base / "output"
    say("\n" + table(rows))
    say(f"\nEverything is in {output}")


def run_file(client: Client, file: Path, definitions: dict[str, Any], output: Path) -> dict[str, object]:
    """Run one saved graph; the table's row about it."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    titles = {str(node["id"]): node.get("title") or node["type"] for node in workflow["nodes"]}
    progress = Progress(every=5)

    def show(event: Event) -> None:
        text = describe(event, titles)
        if text:
            progress.update(f"  {file.stem}: {text}")

    try:
        prompt = to_prompt(workflow, definitions)
        result = client.run(prompt, show, {"extra_pnginfo": {"workflow": workflow}})
    except DevError as error:
        progress.close()
        raise DevError(f"{file.name}: {error}") from error
    progress.close(f"  {file.stem}: done in {result.seconds:.1f} s")
    return row(file.stem, result, output)


def describe(event: Event, titles: dict[str, str]) -> str:
    """A message of the server as a few words; empty if there is nothing to tell."""
    data = event["data"]
    title = titles.get(str(data.get("node")), "")
    if event["type"] == "progress":
        return f"{title} {bar(data['value'], data['max'])}"
    return title if event["type"] == "executing" else ""


def row(name: str, result: Result, output: Path) -> dict[str, object]:
    images = result.images()
    folders = {os.path.join(output, image["subfolder"]) for image in images}
    return {
        "workflow": name,
        "images": len(images),
        "NFE": count_evaluations(result),
        "seconds": round(result.seconds, 1),
        "where": os.path.commonpath(folders) if folders else None,
    }


def count_evaluations(result: Result) -> int | None:
    """Calls of the network: what the nodes report as `nfe`, else the lengths of their progress bars."""
    reported = [int(n) for output in result.outputs.values() for n in output.get("nfe", [])]
    counted = [int(n) for n in result.steps.values()]
    return sum(reported or counted) or None
