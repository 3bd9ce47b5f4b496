"""The bench command: run `benchmarks/NAME.py` in the set-up environment, with ComfyUI importable."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from .console import DevError
from .env import python_for
from .host import find_host
from .paths import ROOT

FOLDER = ROOT / "benchmarks"
HARNESS = FOLDER / "harness.py"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py") if path != HARNESS)


def bench(name: str, arguments: Sequence[str]) -> int:
    """Run one benchmark; it writes `benchmarks/results/NAME.json` and `.png`."""
    if name not in names():
        raise DevError(f"There is no benchmark {name}; choose one of {', '.join(names())}.")
    host = find_host()
    environ = {**os.environ, "COMFYUI_PATH": str(host.path)}
    return subprocess.call([str(python_for(host)), str(HARNESS), name, *arguments], env=environ)
