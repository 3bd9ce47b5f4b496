"""The test command: set up what the chosen tests need, and run pytest once over them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .browser import ensure_browser
from .console import DevError
from .env import core_python, imports, python_for
from .host import find_host
from .paths import ROOT


def test(rooms: Sequence[str], fast: bool, arguments: Sequence[str]) -> int:
    """Run the tests of `rooms` (folders of tests/; all when empty). `fast` leaves out the slow ones."""
    environ = dict(os.environ)
    python = core_python() if list(rooms) == ["core"] else prepare(rooms, environ)
    command = [str(python), "-m", "pytest", *(["-m", "not slow"] if fast else []), *arguments]
    named = any((ROOT / argument.partition("::")[0]).exists() for argument in arguments)
    folders = [] if named else [f"tests/{room}" for room in rooms] or ["tests"]
    return subprocess.call([*command, *folders], cwd=ROOT, env=environ)


def prepare(rooms: Sequence[str], environ: dict[str, str]) -> Path:
    """Set up ComfyUI, its environment and a browser; their places go into `environ`."""
    host = find_host(environ)
    python = python_for(host)
    if not imports(python, "import pytest"):
        raise DevError(f"{python} has no pytest; install it there, or unset COMFYUI_PATH to use the pinned set-up.")
    environ["COMFYUI_PATH"] = str(host.path)
    if not rooms or "browser" in rooms:
        environ["D2F_CHROMIUM"] = str(ensure_browser(python))
    return python
