"""ComfyUI's page in another version than its release brings: `python dev.py test --browser --frontend newest`.

The page is a package of its own, and users have newer ones than the pinned release. A version is unpacked once, into

    <cache>/frontends/1.58.1

and the server is started with it: `D2F_FRONTEND` names the folder, which ComfyUI's `--front-end-root` gets.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from .console import DevError, say
from .paths import cache_root, locked

PACKAGE = "comfyui-frontend-package"
NEWEST = "newest"
VARIABLE = "D2F_FRONTEND"
"""Environment variable: the folder of the page that servers are to serve."""

_STATIC = "comfyui_frontend_package/static/"


def frontend(wanted: str) -> Path:
    """The folder of a version of the page, or of the newest one that pip finds; downloaded if it is not there yet."""
    if wanted != NEWEST and not re.fullmatch(r"\d+(\.\w+)+", wanted):
        raise DevError(f"--frontend {wanted} is not a version of {PACKAGE}; give {NEWEST}, or a number such as 1.58.1.")
    folder = cache_root() / "frontends"
    with locked(folder / ".lock"):
        if wanted != NEWEST and (folder / wanted / "index.html").is_file():
            return folder / wanted
        return fetch(wanted, folder)


def fetch(wanted: str, folder: Path) -> Path:
    """Download the package with pip, whose configuration holds here too, and unpack its page."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        wheel = download(PACKAGE if wanted == NEWEST else f"{PACKAGE}=={wanted}", Path(temporary))
        target = folder / wheel.name.split("-")[1]
        if not (target / "index.html").is_file():
            unpack(wheel, Path(temporary) / "page")
            os.replace(Path(temporary) / "page", target)
    say(f"The page is that of {PACKAGE} {target.name}")
    return target


def download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        reason = next((line for line in reversed(result.stderr.splitlines()) if "ERROR" in line), "no reason given")
        raise DevError(f"pip could not download {requirement} ({reason.strip()}); check version and connection.")
    return wheels[0]


def unpack(wheel: Path, target: Path) -> None:
    """The page's files alone, without the maps of its source."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            place = name.removeprefix(_STATIC)
            if place == name or name.endswith(("/", ".map")) or ".." in Path(place).parts:
                continue
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            (target / place).write_bytes(archive.read(name))


def page_arguments(environ: Mapping[str, str] = os.environ) -> list[str]:
    """What ComfyUI is told about its page."""
    folder = environ.get(VARIABLE, "")
    if folder and not (Path(folder) / "index.html").is_file():
        raise DevError(f"{VARIABLE}={folder} holds no page (index.html is looked for); correct it, or unset it.")
    return ["--front-end-root", folder] if folder else []
