"""A Chromium for the browser tests: found, or installed where that needs no questions.

What is found must also start: on Ubuntu `chromium-browser` may be a script that asks for a snap, and a snap cannot
see the folders that the tests give it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from .console import DevError, say
from .env import log_run
from .paths import cache_root

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
ADVICE = {
    "darwin": "Google Chrome (brew install --cask google-chrome)",
    "win32": "Google Chrome (winget install Google.Chrome)",
    "debian": "Chromium (sudo apt install chromium; on Ubuntu, where that is a snap, Google Chrome's .deb)",
    "linux": "your distribution's package of Chromium, or Google Chrome",
}
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


def find_browser(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path | None:
    """`D2F_CHROMIUM`, or the first Chromium in the PATH or in a usual place."""
    return named(environ) or next(iter(candidates(environ, platform)), None)


def named(environ: Mapping[str, str]) -> Path | None:
    """What `D2F_CHROMIUM` names."""
    own = environ.get("D2F_CHROMIUM")
    if own and not Path(own).is_file():
        raise DevError(f"D2F_CHROMIUM={own} is not a file; correct it, or unset it to search the usual places.")
    return Path(own) if own else None


def candidates(environ: Mapping[str, str], platform: str) -> list[Path]:
    """Every Chromium in the PATH, then those in the usual places."""
    found = [shutil.which(name, path=environ.get("PATH", "")) for name in NAMES]
    return [Path(path) for path in found if path] + [place for place in places(environ, platform) if place.is_file()]


def places(environ: Mapping[str, str], platform: str) -> list[Path]:
    roots = [environ.get(key) for key in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")]
    if platform == "win32":
        return [Path(root) / name for root in roots if root for name in PLACES["win32"]]
    return [Path(name) for name in PLACES.get(platform, [])]


def ensure_browser(python: Path, environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """A Chromium that starts, installed if there is none: from Debian (as root), else by playwright."""
    own, failed = named(environ), dict[Path, str]()
    if own is not None:
        return first_that_starts([own], failed) or complain(
            f"D2F_CHROMIUM={own} does not start ({failed[own]}); name another Chromium, or unset it."
        )

    def search() -> Path | None:
        return first_that_starts([*candidates(environ, platform), *installed_by_playwright(python)], failed)

    found = search()
    if found is None:
        say("Installing Chromium for the browser tests ...")
        found = next(filter(None, (search() for command in install_commands(python) if succeeds(command))), None)
    return found or complain(advice(platform, failed))


def complain(message: str) -> NoReturn:
    raise DevError(message)


def first_that_starts(paths: Iterable[Path], failed: dict[Path, str]) -> Path | None:
    """The first of `paths` that starts; why others do not goes into `failed`."""
    for path in paths:
        reason = why_it_fails(path)
        if not reason:
            return path
        failed[path] = reason
    return None


def why_it_fails(path: Path, seconds: float = 60) -> str:
    """Start a browser without a window, on an empty page; empty if that works."""
    if is_snap(path):
        return "it is a snap, which does not see the tests' folders"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [str(path), "--headless", *ARGUMENTS, f"--user-data-dir={folder}", "--dump-dom", "about:blank"]
        try:
            result = subprocess.run(command, capture_output=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"nothing came within {seconds:g} s"
        except OSError as error:
            return error.strerror or str(error)
    if result.returncode == 0:
        return ""
    last = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return last.strip()[:120] or f"exit code {result.returncode}"


def is_snap(path: Path) -> bool:
    """A snap, or Ubuntu's script that calls one or asks for it."""
    if path.is_relative_to("/snap") or path.resolve().name == "snap":
        return True
    with open(path, "rb") as file:
        start = file.read(4096)
    return start.startswith(b"#!") and b"/snap/" in start


def installed_by_playwright(python: Path) -> list[Path]:
    """playwright's own Chromium, if it has been installed."""
    result = subprocess.run([str(python), "-c", ASK_PLAYWRIGHT], capture_output=True, text=True)
    path = Path(result.stdout.strip() or "?")
    return [path] if result.returncode == 0 and path.is_file() else []


def install_commands(python: Path) -> list[list[str]]:
    """What may bring a Chromium, in the order of trying."""
    debian = ["sh", "-c", "apt-get update && apt-get install -y chromium"]
    own = [str(python), "-m", "playwright", "install", "chromium"]
    return [debian, own] if may_use_apt() else [own]


def may_use_apt() -> bool:
    return bool(shutil.which("apt-get")) and hasattr(os, "geteuid") and os.geteuid() == 0


def succeeds(command: list[str]) -> bool:
    """Run an installation; its output goes into a log of the cache."""
    try:
        log_run(command, "installing chromium", "it failed", {"DEBIAN_FRONTEND": "noninteractive"})
    except DevError:
        return False
    return True


def advice(platform: str, failed: Mapping[Path, str]) -> str:
    """What the user can do, in one sentence."""
    kind = "debian" if platform.startswith("linux") and shutil.which("apt-get") else platform
    tried = "".join(f"; {path} does not start ({reason})" for path, reason in failed.items())
    return (
        f"There is no Chromium for the browser tests, and none could be installed (logs are in {cache_root() / 'logs'}"
        f"{tried}): install {ADVICE.get(kind, ADVICE['linux'])}, or name one in D2F_CHROMIUM."
    )
