"""A Chromium for the browser tests: `D2F_CHROMIUM`, one that is found, or one that is installed without questions.

What is found must also start: on Ubuntu `chromium-browser` may be a script that asks for a snap, and a snap cannot
see the folders that the tests give it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .console import DevError, say
from .env import log_run
from .paths import cache_root

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLACES = [
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path(os.environ.get("PROGRAMFILES", "C:/Program Files")) / "Google/Chrome/Application/chrome.exe",
]
ASK_PLAYWRIGHT = (
    "from playwright.sync_api import sync_playwright\nwith sync_playwright() as p: print(p.chromium.executable_path)"
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_browser() -> Path | None:
    """`D2F_CHROMIUM`, or the first Chromium in the PATH or in a usual place."""
    own = os.environ.get("D2F_CHROMIUM")
    if own and not Path(own).is_file():
        raise DevError(f"D2F_CHROMIUM={own} is not a file; correct it, or unset it to search the usual places.")
    return Path(own) if own else next(candidates(), None)


def candidates() -> Iterator[Path]:
    """Every Chromium in the PATH, then those in the usual places."""
    yield from (Path(path) for name in NAMES if (path := shutil.which(name)))
    yield from (place for place in PLACES if place.is_file())


def ensure_browser(python: Path) -> Path:
    """A Chromium that starts, installed if there is none: from Debian (as root), else by playwright."""
    if os.environ.get("D2F_CHROMIUM") and (own := find_browser()):
        if reason := why_it_fails(own):
            raise DevError(f"D2F_CHROMIUM={own} does not start ({reason}); name another Chromium, or unset it.")
        return own
    failed: dict[Path, str] = {}
    for installation in (None, *install_commands(python)):
        if installation is not None:
            say("Installing Chromium for the browser tests ...")
            install(installation)
        for path in (*candidates(), *installed_by_playwright(python)):
            failed[path] = why_it_fails(path)
            if not failed[path]:
                return path
    raise DevError(advice(failed))


def why_it_fails(path: Path, seconds: float = 60) -> str:
    """Start a browser without a window, on an empty page; empty if that works."""
    if path.is_relative_to("/snap") or b"/snap/" in path.read_bytes()[:4096]:
        return "it is a snap, which does not see the tests' folders"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [str(path), "--headless", *ARGUMENTS, f"--user-data-dir={folder}", "--dump-dom", "about:blank"]
        try:
            result = subprocess.run(command, capture_output=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"nothing came within {seconds:g} s"
        except OSError as error:
            return error.strerror or str(error)
    last = result.stderr.decode(errors="replace").strip().rpartition("\n")[2].strip()[:120]
    return "" if result.returncode == 0 else last or f"exit code {result.returncode}"


def installed_by_playwright(python: Path) -> list[Path]:
    """playwright's own Chromium, if it has been installed."""
    result = subprocess.run([str(python), "-c", ASK_PLAYWRIGHT], capture_output=True, text=True)
    path = Path(result.stdout.strip() or "?")
    return [path] if result.returncode == 0 and path.is_file() else []


def install_commands(python: Path) -> list[list[str]]:
    """What may bring a Chromium, in the order of trying."""
    own = [str(python), "-m", "playwright", "install", "chromium"]
    if not shutil.which("apt-get") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return [own]
    return [["sh", "-c", "apt-get update && apt-get install -y chromium"], own]


def install(command: list[str]) -> None:
    """Run an installation; its output goes into a log of the cache. What it brings, the search finds."""
    try:
        log_run(command, "installing chromium", "it failed", {"DEBIAN_FRONTEND": "noninteractive"})
    except DevError as error:
        say(str(error).splitlines()[0])


def advice(failed: dict[Path, str]) -> str:
    """What the user can do, in one sentence."""
    tried = "".join(f"; {path} does not start ({reason})" for path, reason in failed.items())
    return (
        f"There is no Chromium for the browser tests, and none could be installed (logs are in {cache_root() / 'logs'}"
        f"{tried}): install Google Chrome, or your distribution's package of Chromium (no snap), or name one in "
        f"D2F_CHROMIUM ({sys.platform})."
    )
