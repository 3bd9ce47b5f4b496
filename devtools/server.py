"""Start and stop a real ComfyUI with the pack in it.

The server gets a working directory of its own (`--base-directory`), in which `custom_nodes` holds a
link to this checkout (or what a test puts there); nothing is written into ComfyUI's own tree, be it
shared or the user's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .console import DevError, Progress, tail
from .frontend import page_arguments
from .host import Host
from .paths import PACK, ROOT, link_folder

ADDRESS = "127.0.0.1"
CHECKOUT = {PACK: ROOT}
FOLDERS = ("custom_nodes", "models/checkpoints", "models/loras", "input", "output", "user", "temp")
HAS_GPU = (
    "import sys, torch; mps = getattr(torch.backends, 'mps', None); xpu = getattr(torch, 'xpu', None);"
    "sys.exit(not (torch.cuda.is_available() or (mps and mps.is_available()) or (xpu and xpu.is_available())))"
)


@dataclass
class Server:
    """A running ComfyUI."""

    process: subprocess.Popen[bytes]
    port: int
    base: Path
    log: Path
    opener: urllib.request.OpenerDirector = field(
        default_factory=lambda: urllib.request.build_opener(urllib.request.ProxyHandler({}))
    )

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.port}"

    def alive(self) -> bool:
        return self.process.poll() is None

    def answers(self) -> bool:
        try:
            with self.opener.open(self.url + "/system_stats", timeout=5) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def log_tail(self) -> str:
        return f"the log is {self.log}, and ends with:\n{tail(self.log)}"

    def wait_until_ready(self, seconds: float) -> None:
        progress, start = Progress(), time.monotonic()
        while not self.answers():
            waited = time.monotonic() - start
            if not self.alive():
                raise DevError(f"ComfyUI stopped with code {self.process.returncode}; {self.log_tail()}")
            if waited > seconds:
                raise DevError(f"ComfyUI did not answer within {seconds:.0f} s; {self.log_tail()}")
            progress.update(f"  {waited:4.0f} s  starting ComfyUI")
            time.sleep(0.25)
        progress.close()

    def stop(self) -> None:
        """Ask it to end; insist after ten seconds."""
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def working_directory() -> Path:
    """Where this checkout's server keeps its models, inputs, outputs and log."""
    return ROOT / ".d2f"


def prepare(base: Path, packs: Mapping[str, Path]) -> None:
    """Make the folders of a working directory, and link `packs` into its `custom_nodes` under their names."""
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    for name, pack in packs.items():
        link_folder(pack, base / "custom_nodes" / name)


def choose_port(port: int | None = None) -> int:
    """`port` if it is free, a free one when None."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port or 0))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DevError(f"Port {port} is busy or not allowed ({reason}); choose another with --port.") from None
        return int(probe.getsockname()[1])


def device_arguments(python: Path) -> list[str]:
    """`--cpu` where torch sees no accelerator; `D2F_DEVICE` (cpu or gpu) decides instead if set."""
    wish = os.environ.get("D2F_DEVICE", "")
    if wish not in ("", "cpu", "gpu"):
        raise DevError(f"D2F_DEVICE={wish} means nothing; it may be cpu or gpu.")
    gpu = wish == "gpu" if wish else subprocess.run([str(python), "-c", HAS_GPU], capture_output=True).returncode == 0
    return [] if gpu else ["--cpu"]


def command_line(host: Host, python: Path, base: Path, port: int) -> list[str]:
    return [
        str(python), str(host.path / "main.py"),
        "--listen", ADDRESS, "--port", str(port),
        "--base-directory", str(base),
        "--database-url", "sqlite:///:memory:",
        "--disable-api-nodes", "--disable-auto-launch",
        *device_arguments(python), *page_arguments(),
    ]  # fmt: skip


@contextlib.contextmanager
def running(
    host: Host,
    python: Path,
    base: Path | None = None,
    port: int | None = None,
    extra: Sequence[str] = (),
    seconds: float = 300,
    threads: int | None = None,
    packs: Mapping[str, Path] = CHECKOUT,
) -> Iterator[Server]:
    """A ComfyUI that answers, stopped on the way out.

    extra: more arguments for its `main.py`. seconds: how long it may take to start.
    threads: of torch; the demo model is too small to share between threads, which then only wait for
    each other, badly so on a busy machine. `OMP_NUM_THREADS` wins.
    packs: folders to link into `custom_nodes`, by their names there; what lies there already stays.
    """
    base = base or working_directory()
    prepare(base, packs)
    port = choose_port(port)
    log = base / "server.log"
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    if threads is not None:
        environ.setdefault("OMP_NUM_THREADS", str(threads))
    with open(log, "wb") as out:
        command = [*command_line(host, python, base, port), *extra]
        process = subprocess.Popen(command, cwd=base, env=environ, stdout=out, stderr=subprocess.STDOUT)
    server = Server(process, port, base, log)
    try:
        server.wait_until_ready(seconds)
        yield server
    finally:
        server.stop()
        shutil.rmtree(base / "temp", ignore_errors=True)
