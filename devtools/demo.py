"""The demo command: run the graphs `workflows/demo_*.json` on a real server and list what they made."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from .client import Client, Event, Result
from .console import DevError, Progress, bar, say, table
from .env import python_for
from .host import find_host
from .paths import ROOT
from .server import ADDRESS, Server, running
from .workflow import to_prompt

Branches = list[tuple[str, list[str]]]

TRAINER = "D2FTrainLora"
# Pictures of the README, and which of the demo's they are.
DOCS = {
    "demo.png": "demo_text_to_image_sheet.png",
    "demo_training.png": "demo_train_lora_before_after.png",
    "demo_reflow.png": "demo_reflow_before_after.png",
    "demo_depth.png": "demo_depth_sheet.png",
}
# Plots among them: the graph, and the title of the node that saved it.
PLOTS = {
    "demo_training_loss.png": ("demo_train_lora", "Loss"),
    "demo_reflow_paths.png": ("demo_reflow", "Paths before and after"),
}


def demo(pictures: bool = False, folder: Path = ROOT / "workflows", pattern: str = "demo_*.json") -> None:
    """Run every demo graph, in the order of their names; print a table of what was made and where.

    `pictures` remakes the pictures in the repository, too: the graphs' thumbnails and the README's.
    """
    host = find_host()
    files = sorted(folder.glob(pattern))
    if not files:
        raise DevError(f"There are no graphs {pattern} in {folder}.")
    python = python_for(host)
    say(f"Starting ComfyUI {host.version} ...")
    with running(host, python, threads=1) as server:
        client = Client(ADDRESS, server.port, server.alive)
        definitions = client.object_info()
        made = {file.stem: run_file(client, server, file, definitions) for file in files}
    output = server.base / "output"
    draw(python, {graph: branches for graph, (_, branches) in made.items()}, output, folder if pictures else None)
    say("\n" + table([row for row, _ in made.values()]))
    say(f"\nEverything is in {output}; a sheet of each graph's images is {output / '<workflow>_sheet.png'}")


def draw(python: Path, graphs: dict[str, Branches], output: Path, thumbnails: Path | None) -> None:
    """Sheets of the images in `output`; the repository's pictures if `thumbnails` is given."""
    manifest = output / "demo_images.json"
    manifest.write_text(json.dumps(graphs), encoding="utf-8")
    command = [python, ROOT / "devtools" / "pictures.py", manifest, output, *([thumbnails] if thumbnails else [])]
    subprocess.run([str(part) for part in command], check=True)
    if thumbnails:
        images = ROOT / "docs" / "images"
        for name, made in DOCS.items():
            shutil.copy(output / made, images / name)
        for name, (graph, title) in PLOTS.items():
            shutil.copy(dict(graphs[graph])[title][0], images / name)


def run_file(
    client: Client, server: Server, file: Path, definitions: dict[str, Any]
) -> tuple[dict[str, object], Branches]:
    """Run one saved graph; the table's row about it, and the images of each of its branches."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    titles = {str(node["id"]): node.get("title") or node["type"] for node in workflow["nodes"]}
    progress, meter = Progress(every=5), Meter(server.log)

    def show(event: Event) -> None:
        meter.see(event)
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
    trainers = {node_id for node_id, node in prompt.items() if node["class_type"] == TRAINER}
    return row(file.stem, result, meter.evaluations, trainers), branches(result, titles, server.base / "output")


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
