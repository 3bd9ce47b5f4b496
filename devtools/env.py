"""The Python environment: one per Python and ComfyUI version, shared by all checkouts, 6 GB each.

A stamp is written last. Without it, or with the stamp of another set of requirements, the environment is filled again
in place, and rebuilt from nothing when that does not give one that imports.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .console import DevError, Progress, say, tail
from .host import DEFAULT, Host
from .paths import ROOT, cache_root, link_folder, locked, venv_python

TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]
TOOLS = [
    "pytest==9.2.0",
    "ruff==0.17.6",
    "mypy==2.4.1",
    "playwright==1.65.2",
    "diffusers==0.42.1",
    "torchdiffeq==0.2.5",
    "peft==0.21.2",
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "prodigyopt==1.1.2",
    "schedulefree==1.4.1",
    "came-pytorch==0.1.3",
    "bitsandbytes==0.50.2",
    "matplotlib>=3.9,<4",
]
CORE = [TORCH[0], "numpy", "transformers>=4.50", TOOLS[0]]
STAMP = "diff2flow-kit.stamp"
PROBE = "import torch, torchvision, torchaudio, aiohttp, pytest"


def python_for(host: Host) -> Path:
    """The interpreter that runs `host`: its own, or that of an environment set up for it."""
    if host.python is not None:
        return host.python
    folder = environment_folder(host.version)
    python = ensure(folder, TORCH + TOOLS, host.path / "requirements.txt", PROBE)
    if host.version == DEFAULT:
        link_folder(folder, ROOT / ".venv")
    return python


def environment_folder(version: str) -> Path:
    return cache_root() / "envs" / f"{tag()}-comfyui-{version}"


def core_python() -> Path:
    """An interpreter with torch and pytest: a set-up environment, the current one, or a small new one."""
    ready = environment_folder(DEFAULT)
    if (ready / STAMP).is_file():
        return venv_python(ready)
    if imports(Path(sys.executable), "import torch, pytest"):
        return Path(sys.executable)
    return ensure(cache_root() / "envs" / f"{tag()}-core", CORE, None, "import torch, pytest")


def tag() -> str:
    return f"py{sys.version_info.major}{sys.version_info.minor}"


def ensure(folder: Path, packages: list[str], requirements: Path | None, probe: str) -> Path:
    """The interpreter of the environment in `folder`, which holds `packages` and `requirements`."""
    text = requirements.read_text(encoding="utf-8") if requirements else ""
    digest = hashlib.sha256("\n".join([*packages, text]).encode()).hexdigest()
    python, stamp = venv_python(folder), folder / STAMP
    with locked(folder.parent / f".{folder.name}.lock"):
        if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == digest and python.exists()):
            stamp.unlink(missing_ok=True)
            build(folder, packages + (["-r", str(requirements)] if requirements else []), probe)
            stamp.write_text(digest, encoding="utf-8")
    return python


def build(folder: Path, arguments: list[str], probe: str) -> None:
    """Fill `folder`, going on from what an interrupted set-up left there; start over if that fails."""
    check_python()
    if venv_python(folder).exists():
        say(f"Completing the environment in {folder} ...")
        try:
            return fill(folder, arguments, probe)
        except DevError as error:
            say(f"That did not work ({str(error).splitlines()[0]}); building it anew.")
    shutil.rmtree(folder, ignore_errors=True)
    size = "several GB" if TORCH[0] in arguments else "up to a few hundred MB"
    say(f"Creating the environment in {folder}; the first time this downloads {size}.")
    create(folder)
    return fill(folder, arguments, probe)


def check_python() -> None:
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise DevError(f"Python {sys.version.split()[0]} will not do; run dev.py with Python 3.10, 3.11, 3.12 or 3.13.")


def create(folder: Path) -> None:
    """An empty environment."""
    command = [sys.executable, "-m", "venv", str(folder)]
    log_run(command, f"creating {folder.name}", "python -m venv failed (on Debian it needs the package python3-venv)")


def fill(folder: Path, arguments: list[str], probe: str) -> None:
    python = venv_python(folder)
    command = [str(python), "-m", "pip", "install", "--no-input", *arguments]
    log_run(command, "installing packages", "pip could not install the packages")
    if not imports(python, probe):
        raise DevError(f"The environment in {folder} does not import what it should ({probe}).")


def add_packages(python: Path, packages: Sequence[str]) -> None:
    """Install pinned packages (name==version) that one task needs, where they are not there yet."""
    wanted = dict(package.split("==") for package in packages)
    code = (
        f"from importlib.metadata import version; assert {wanted} == {{name: version(name) for name in {list(wanted)}}}"
    )
    if wanted and not imports(python, code):
        command = [str(python), "-m", "pip", "install", "--no-input", "--no-deps", *packages]
        log_run(command, "installing packages", f"pip could not install {', '.join(packages)}")


def imports(python: Path, statement: str) -> bool:
    return subprocess.run([str(python), "-c", statement], capture_output=True).returncode == 0


def log_run(command: list[str], doing: str, failure: str, variables: dict[str, str] | None = None) -> None:
    """Run `command` with its output in a log file of the cache and a progress line on the screen."""
    logs = cache_root() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with open(path, "w", encoding="utf-8") as log:
        environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **(variables or {})}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ)
        watch(process, lambda: f"{doing}: {last_step(path)}")
    if process.returncode != 0:
        raise DevError(f"{failure}; the log is {path}, and ends with:\n{tail(path, 6)}")


def watch(process: subprocess.Popen[bytes], describe: Callable[[], str]) -> None:
    """Show what a process is at until it ends; end it when the user interrupts."""
    progress, start = Progress(), time.monotonic()
    try:
        while process.poll() is None:
            progress.update(f"  {time.monotonic() - start:4.0f} s  {describe()}")
            time.sleep(0.5)
    finally:
        progress.close()
        if process.poll() is None:
            process.terminate()
            process.wait()


def last_step(path: Path) -> str:
    """What pip is at: the last line of its log that says so."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return newest(file) or "starting"


def newest(lines: Iterable[str]) -> str:
    verbs = ("Collecting", "Downloading", "Installing", "Using cached", "Building", "Preparing")
    steps = [line.strip() for line in lines if line.strip().startswith(verbs)]
    return steps[-1][:70] if steps else ""
