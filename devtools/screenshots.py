"""Screenshots of the browser tests: where they are kept, and which of them the pages of docs/ show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from .console import DevError, say
from .paths import ROOT
from .server import working_directory

IMAGES = ROOT / "docs" / "images"
WHOLE = "D2F_WHOLE_RUNS"
"""The variable that makes the browser tests train for as many steps as the graphs say, as their pictures need."""
# Pictures of the pages in docs/, and the demo graph that each shows after a run.
GRAPHS = {
    "demo_training_graph.png": "02 Train a LoRA",
    "demo_depth_graph.png": "07 Image to depth",
}


def screenshot_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """`D2F_PICTURES`, or a folder of the working directory."""
    own = environ.get("D2F_PICTURES")
    return Path(own).expanduser().absolute() if own else working_directory() / "screenshots"


def graph_picture(graph: str) -> Path:
    """Where the browser tests put the picture of a graph after its run."""
    return screenshot_folder() / f"{graph}_graph.png"


def republish(run: Callable[[], int]) -> int:
    """Run the tests, and if they pass, copy what docs/ shows into the repository; returns their exit code."""
    for graph in GRAPHS.values():
        graph_picture(graph).unlink(missing_ok=True)  # an earlier run's must not be taken for this one's
    code = run()
    if code == 0:
        publish()
    return code


def publish() -> None:
    """Copy what docs/ shows from the run into the repository."""
    missing = [graph for graph in GRAPHS.values() if not graph_picture(graph).is_file()]
    if missing:
        raise DevError(
            f"The tests made no picture of {', '.join(missing)}, so docs/images is as it was; "
            "--pictures needs all browser tests, the slow ones too."
        )
    for name, graph in GRAPHS.items():
        shutil.copyfile(graph_picture(graph), IMAGES / name)
    say(f"Copied {len(GRAPHS)} pictures into {IMAGES}")
