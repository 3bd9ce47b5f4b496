"""A Chromium for the browser tests: found, or installed where that needs no questions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from .console import DevError, say
from .env import log_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLACES = {
    "darwin": [
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
    ],
    "win32": [
        r"Google\Chrome\Application\chrome.exe",
        r"Chromium\Application\chrome.exe",
        r"Microsoft\Edge\Application\msedge.exe",
    ],
}
ASK_PLAYWRIGHT = (
    "from playwright.sync_api import sync_playwright\n"
    "with sync_playwright() as p: print(p.chromium.executable_path)"
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


def find_browser(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path | None:
    """`D2F_CHROMIUM`, or a Chromium in the PATH or in a usual place."""
    own = environ.get("D2F_CHROMIUM")
    if own:
        if not Path(own).is_file():
            raise DevError(f"D2F_CHROMIUM={own} is not a file; correct it, or unset it to search the usual places.")
        return Path(own)
    found = next(filter(None, (shutil.which(name, path=environ.get("PATH", "")) for name in NAMES)), None)
    return Path(found) if found else next((place for place in places(environ, platform) if place.is_file()), None)


def places(environ: Mapping[str, str], platform: str) -> list[Path]:
    roots = [environ.get(key) for key in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")]
    if platform == "win32":
        return [Path(root) / name for root in roots if root for name in PLACES["win32"]]
    return [Path(name) for name in PLACES.get(platform, [])]


def ensure_browser(python: Path) -> Path:
    """A Chromium, installed if there is none: from the distribution (as root), else by playwright."""
    browser = find_browser() or installed_by_playwright(python)
    if browser is None:
        say("Installing Chromium for the browser tests ...")
        install(python)
        browser = find_browser() or installed_by_playwright(python)
    if browser is None:
        raise DevError("There is no Chromium for the browser tests; install one, or name one in D2F_CHROMIUM.")
    return browser


def installed_by_playwright(python: Path) -> Path | None:
    result = subprocess.run([str(python), "-c", ASK_PLAYWRIGHT], capture_output=True, text=True)
    path = Path(result.stdout.strip() or "?")
    return path if result.returncode == 0 and path.is_file() else None


def install(python: Path) -> None:
    hint = "Chromium could not be installed for the browser tests (install one, or name one in D2F_CHROMIUM)"
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        command = ["sh", "-c", "apt-get update && apt-get install -y chromium"]
        log_run(command, "installing chromium", hint, {"DEBIAN_FRONTEND": "noninteractive"})
    else:
        log_run([str(python), "-m", "playwright", "install", "chromium"], "installing chromium", hint)
