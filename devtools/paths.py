"""Where things lie.

    <cache>/downloads                    release archives, checked against their sha256
    <cache>/hosts/comfyui-0.30.0         ComfyUI, never written to after unpacking
    <cache>/envs/py311-comfyui-0.30.0    a virtual environment, 6 GB for each release
    <cache>/logs                         what pip said
    <checkout>/.d2f                      the server's working directory: models, input, output, log

The cache belongs to the user and is shared by all checkouts; the working directory to one checkout.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from .console import DevError

ROOT = Path(__file__).resolve().parent.parent
PACK = "diff2flow-kit"


def cache_root(
    platform: str = sys.platform,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
) -> Path:
    """The per-user cache folder of this project; `D2F_CACHE` overrides it."""
    home = home or Path.home()
    if environ.get("D2F_CACHE"):
        return Path(environ["D2F_CACHE"]).expanduser().absolute()
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / PACK
    if platform == "darwin":
        return home / "Library" / "Caches" / PACK
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / PACK


def venv_python(folder: Path, platform: str = sys.platform) -> Path:
    """The interpreter of a virtual environment."""
    return folder / "Scripts" / "python.exe" if platform == "win32" else folder / "bin" / "python"


def link_folder(target: Path, link: Path) -> None:
    """Make `link` lead to the folder `target`: a symlink, a junction on Windows, else a copy."""
    if link.exists() and link.resolve() == target.resolve():
        return
    if link.is_symlink() or link.is_file():
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        _link(target, link)
    except (OSError, subprocess.CalledProcessError):
        ignore = shutil.ignore_patterns(".git", ".d2f", ".venv", "__pycache__")
        shutil.copytree(target, link, ignore=ignore, dirs_exist_ok=True)


def _link(target: Path, link: Path) -> None:
    if sys.platform == "win32":
        command = ["cmd", "/c", "mklink", "/J", str(link), str(target)]
        subprocess.run(command, check=True, capture_output=True)
    else:
        link.symlink_to(target, target_is_directory=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` as a lock between processes; the system lets go of it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        _lock(file.fileno())
        yield


def _lock(descriptor: int) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise DevError(f"Another dev.py is setting up the same cache ({error}); wait for it and retry.") from error
