"""The test command: set up what the chosen tests need, and run pytest on them; on all of them in two halves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from .browser import ensure_browser
from .console import DevError, say
from .env import core_python, imports, python_for
from .host import find_host
from .paths import ROOT
from .tools import tools_python

BESIDE = "host"
"""The folder of tests/ that runs beside all others when all are run; both halves take about as long."""
QUICK = ("core", "data", "dev")
"""The folders that come first."""


def test(rooms: Sequence[str], fast: bool, arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run the tests of `rooms` (folders of tests/; all when empty). `fast` leaves out the slow ones, and the browser's
    unless they are asked for."""
    variables = dict(environ)
    rooms = rooms or (sorted(path.name for path in (ROOT / "tests").iterdir() if is_quick(path)) if fast else [])
    python = core_python() if list(rooms) == ["core"] else prepare(rooms, variables)
    if not rooms and not arguments:
        return side_by_side([str(python), "-m", "pytest"], variables)
    command = [str(python), "-m", "pytest", *(["-m", "not slow"] if fast else []), *arguments]
    folders = [] if any(map(names_tests, arguments)) else [f"tests/{room}" for room in rooms] or ["tests"]
    return call([*command, *folders], variables)


def is_quick(folder: Path) -> bool:
    """Whether a folder of tests/ holds tests that do not need a browser."""
    return folder.name != "browser" and any(folder.rglob("test_*.py"))


def names_tests(argument: str) -> bool:
    """Whether an argument for pytest is a file, a folder or a test in tests/."""
    place = (ROOT / argument.partition("::")[0]).resolve()
    return place.exists() and place.is_relative_to(ROOT / "tests")


def side_by_side(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run every test in two processes, each with half of the processors; what the second says comes at the end."""
    names = sorted(path.name for path in (ROOT / "tests").iterdir() if any(path.rglob("test_*.py")))
    folders = sorted(names, key=lambda name: name not in QUICK)
    environ = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2)), **environ}
    first, second = ([f"tests/{name}" for name in folders if (name == BESIDE) == later] for later in (False, True))
    say(f"At the same time, and shown at the end: {', '.join(second)}")
    with tempfile.TemporaryFile() as words:
        with subprocess.Popen([*command, *second], cwd=ROOT, env=environ, stdout=words, stderr=words) as beside:
            try:
                code = call([*command, *first], environ)
                beside.wait()
            finally:
                if beside.poll() is None:
                    interrupt(beside)
        words.seek(0)
        say(words.read().decode(errors="replace"))
    return code or beside.returncode


def call(command: Sequence[str], environ: Mapping[str, str], patience: float = 3) -> int:
    """Run pytest; when interrupted, let it stop its servers: Ctrl-C reached it as well, other signals are passed on."""
    with subprocess.Popen(command, cwd=ROOT, env=environ) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            if process.poll() is None:
                interrupt(process)
            raise


def interrupt(process: subprocess.Popen[bytes], patience: float = 30) -> None:
    """Ctrl-C for one process, and harder words if it does not hear: what a shell runs in the background ignores it.

    Windows has no Ctrl-C for one process; there it is ended.
    """
    ask = process.terminate if os.name == "nt" else partial(process.send_signal, signal.SIGINT)
    for stop in (ask, process.terminate, process.kill):
        stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def prepare(rooms: Sequence[str], environ: dict[str, str]) -> Path:
    """Set up ComfyUI, its environment and a browser; their places go into `environ`."""
    host = find_host(environ)
    python = python_for(host)
    if not imports(python, "import pytest"):
        raise DevError(f"{python} has no pytest; install it there, or unset COMFYUI_PATH to use the pinned set-up.")
    environ["COMFYUI_PATH"] = str(host.path)
    if not rooms or "browser" in rooms:
        environ["D2F_CHROMIUM"] = str(ensure_browser(python))
    if not rooms:
        tools_python()
    return python
