"""The demo command: run the example graphs that need no checkpoint on a real server and list what they made.

It runs in the set-up environment (`python -m devtools.demo`), whose libraries it uses.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from .cards import draw_cards
from .client import Client, Event, Result
from .console import DevError, Progress, bar, say, table
from .forms import graph_files
from .host import Host, read_version
from .paths import ROOT
from .pictures import Branches, draw
from .prompts import prompt_for
from .server import ADDRESS, Server, running

TRAINER = "D2FTrainLora"
# Pictures of the README and of docs/, and which of the demo's they are.
DOCS = {
    "demo.png": "10 Compare solvers_sheet.png",
    "demo_training.png": "02 Train a LoRA_before_after.png",
    "demo_black.png": "12 True black_before_after.png",
    "demo_reflow.png": "05 Few steps_before_after.png",
    "demo_depth.png": "07 Image to depth_sheet.png",
}
# Plots among them: the graph, and the title of the node that saved it.
PLOTS = {
    "demo_training_loss.png": ("02 Train a LoRA", "Loss"),
    "demo_reflow_paths.png": ("05 Few steps", "Paths before and after"),
}


def demo_graphs() -> list[Path]:
    """The example graphs of the demo model, which is part of the pack."""
    return [file for file in graph_files() if '"D2FDemoCheckpoint"' in file.read_text(encoding="ascii")]


def demo(pictures: bool = False) -> None:
    """Run every demo graph, in the order of their names; print a table of what was made and where.

    `pictures` remakes the pictures in the repository, too: the graphs' thumbnails and those of docs/images.
    """
    path = Path(os.environ["COMFYUI_PATH"])
    host = Host(path, read_version(path))
    files = demo_graphs()
    say(f"Starting ComfyUI {host.version} ...")
    with running(host, Path(sys.executable), threads=1) as server:
        client = Client(ADDRESS, server.port, server.alive)
        made = {file.stem: run_file(client, server, file) for file in files}
    output = server.base / "output"
    graphs = {graph: branches for graph, (_, branches) in made.items()}
    draw(graphs, output)
    if pictures:
        draw_cards(graphs, ROOT / "workflows")
        publish(graphs, output)
    say("\n" + table([row for row, _ in made.values()]))
    say(f"\nEverything is in {output}; a sheet of each graph's images is {output / '<workflow>_sheet.png'}")


def publish(graphs: dict[str, Branches], output: Path) -> None:
    """Copy what the README and docs/ show into the repository."""
    images = ROOT / "docs" / "images"
    for name, made in DOCS.items():
        shutil.copy(output / made, images / name)
    for name, (graph, title) in PLOTS.items():
        shutil.copy(dict(graphs[graph])[title][0], images / name)


def run_file(client: Client, server: Server, file: Path) -> tuple[dict[str, object], Branches]:
    """Run one saved graph; the table's row about it, and the images of each of its branches."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    titles = node_titles(workflow)
    progress, meter = Progress(every=5), Meter(server.log)

    def show(event: Event) -> None:
        meter.see(event)
        text = describe(event, titles)
        if text:
            progress.update(f"  {file.stem}: {text}")

    prompt = prompt_for(file.stem)
    try:
        result = client.run(prompt, show, {"extra_pnginfo": {"workflow": workflow}})
    except DevError as error:
        progress.close()
        raise DevError(f"{file.name}: {error}") from error
    progress.close(f"  {file.stem}: done in {result.seconds:.1f} s")
    trainers = {node_id for node_id, node in prompt.items() if node["class_type"] == TRAINER}
    return row(file.stem, result, meter.evaluations, trainers), branches(result, titles, server.base / "output")


def node_titles(workflow: dict[str, Any]) -> dict[str, str]:
    """{node: title} of a saved graph, with `NODE:INNER` for what is inside of its subgraphs."""
    subgraphs = {one["id"]: one["nodes"] for one in workflow.get("definitions", {}).get("subgraphs", [])}
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    for key, node in list(nodes.items()):
        nodes |= {f"{key}:{inner['id']}": inner for inner in subgraphs.get(node["type"], [])}
    return {key: node.get("title") or node["type"] for key, node in nodes.items()}


def branches(result: Result, titles: dict[str, str], output: Path) -> Branches:
    """Title of each node that saved images, and their files, in the order of the files' names."""
    files: dict[str, list[str]] = {}
    for node, made in result.outputs.items():
        for image in made.get("images", []):
            if image.get("type") == "output":
                path = output / image["subfolder"] / image["filename"]
                files.setdefault(titles.get(node, node), []).append(str(path))
    return sorted(files.items(), key=lambda branch: branch[1])


def describe(event: Event, titles: dict[str, str]) -> str:
    """A message of the server as a few words; empty if there is nothing to tell."""
    data = event["data"]
    title = titles.get(str(data.get("node")), "")
    if event["type"] == "progress":
        return f"{title} {bar(data['value'], data['max'])}"
    return title if event["type"] == "executing" else ""


class Meter:
    """Calls of the network by node, read off what the pack's samplers write into ComfyUI's log."""

    def __init__(self, log: Path) -> None:
        self.log, self.node = log, ""
        self.read = log.stat().st_size
        self.evaluations: dict[str, float] = {}

    def see(self, event: Event) -> None:
        """When the next node begins, what the log has gained belongs to the node before."""
        if event["type"] == "executing":
            with open(self.log, "rb") as file:
                file.seek(self.read)
                text = file.read()
            self.read += len(text)
            counts = [int(count) for count in re.findall(rb": (\d+) model evaluations", text)]
            if counts:
                self.evaluations[self.node] = sum(counts)
            self.node = str(event["data"].get("node"))


def row(name: str, result: Result, evaluations: dict[str, float], trainers: set[str]) -> dict[str, object]:
    """NFE: what was counted, and for other nodes the length of the progress bar; trainers count their steps."""
    images = result.images()
    files = [str(Path(image["subfolder"]) / image["filename"]) for image in images]
    counts = {**result.steps, **evaluations}
    trained = sum(counts.pop(trainer, 0) for trainer in trainers)
    return {
        "workflow": name,
        "images": len(images),
        "NFE": int(sum(counts.values())) or None,
        "trained": int(trained) or None,
        "seconds": round(result.seconds, 1),
        "where": os.path.commonprefix(files) + "*" if files else None,  # noqa: RUF071
    }


if __name__ == "__main__":
    try:
        demo("--pictures" in sys.argv[1:])
    except DevError as error:
        sys.exit(f"dev.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
