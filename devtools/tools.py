"""The ecosystem's own checkers, comfy-cli and comfy-test, and what builds wheels, in a small environment of their own.

They pin or bring packages that ComfyUI brings too, so they stay out of its environment. Nothing here asks
questions, reports usage or touches the user's configuration of these tools.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from .console import DevError
from .env import ensure, tag
from .paths import cache_root

TOOLS = ["comfy-cli==1.23.0", "comfy-test==0.4.15", "setuptools==80.9.0"]
QUIET = {"DO_NOT_TRACK": "1", "NO_COLOR": "1", "COLUMNS": "500", "PYTHONIOENCODING": "utf-8"}
PATIENCE = 900  # seconds that a tool may take
LAUNCH = """
import os, sys
sys.path.append(os.environ["D2F_TOOLS"])
from comfy_test.reporting import screenshot
from playwright.sync_api import BrowserType
launch = BrowserType.launch
BrowserType.launch = lambda self, **options: launch(self, executable_path=os.environ["D2F_CHROMIUM"], **options)
for name in ("_detect_gpu", "_ensure_vulkan_linux", "_ensure_mesa_linux", "_ensure_mesa_windows"):
    setattr(screenshot, name, lambda *_: False)
from comfy_test.cli import main
sys.exit(main())
"""
PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


def tools_python() -> Path:
    """The interpreter that has the tools; the first call sets it up, which takes half a minute."""
    return ensure(cache_root() / "envs" / f"{tag()}-tools", TOOLS, None, "import comfy_cli, comfy_test")


def tools_packages() -> Path:
    """Where the tools' packages lie, for an interpreter that appends it to its own."""
    return Path(output([str(tools_python()), "-c", PACKAGES], "asking for the folder of the tools").strip())


def comfy(folder: Path, *arguments: str) -> str:
    """What `comfy ARGUMENTS` prints when it runs in `folder`; its home is there, too."""
    command = [str(tools_python()), "-m", "comfy_cli", "--skip-prompt", *arguments]
    home = folder.parent / "home"
    homes = dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(home))
    return output(command, f"comfy {' '.join(arguments)}", folder, {**QUIET, **homes})


def comfy_test(pack: Path, config: Path, url: str, logs: Path, browser: Path) -> str:
    """What comfy-test prints about the pack in `custom_nodes` of the ComfyUI that answers at `url`.

    It imports the pack, so it runs in the current interpreter. logs: a folder with the server's `server.log`, for
    its own logs. browser: the Chromium to use; it would fetch one of its own, and install drivers with sudo.
    """
    command = [sys.executable, "-c", LAUNCH, "run", "--config", str(config), "--server-url", url]
    places = {"COMFY_TEST_LOGS_DIR": logs, "D2F_TOOLS": tools_packages(), "D2F_CHROMIUM": browser}
    return output(command, "comfy-test", pack, {**QUIET, **{name: str(place) for name, place in places.items()}})


def output(command: list[str], what: str, folder: Path | None = None, variables: Mapping[str, str] = {}) -> str:
    """All that `command` prints; a DevError with its last lines if it fails, or does not end."""
    environ = {**os.environ, **variables}
    try:
        result = subprocess.run(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", timeout=PATIENCE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DevError(f"{what} did not end within {PATIENCE} s.") from None
    if result.returncode != 0:
        last = "\n".join(result.stdout.splitlines()[-40:])
        raise DevError(f"{what} failed with code {result.returncode}:\n{last}")
    return result.stdout
