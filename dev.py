"""The commands of this repository; they need nothing but Python 3.10 to 3.13.

    python dev.py demo              set everything up, make the demo's images on a real ComfyUI
    python dev.py demo --outside    train and sample without ComfyUI: diffusers, accelerate, two processes
    python dev.py test              run every test (--core, --data, --host, --outside, --browser: only those)
    python dev.py test --host-version all
                                    run tests/host on every pinned ComfyUI (or on some: 0.16.3,0.24.0), print a table
    python dev.py test --browser --frontend newest
                                    with another version of ComfyUI's page (or a number: 1.58.1)
    python dev.py serve             leave ComfyUI running with the pack in it
    python dev.py python ...        run the set-up environment's interpreter
    python dev.py bench NAME ...    run a benchmark, write benchmarks/results/NAME.json

Environment variables:

    COMFYUI_PATH        use this ComfyUI and its Python instead of the pinned release
    D2F_PYTHON          the Python of that ComfyUI, if it is not in its .venv, venv or python_embeded
    D2F_HOST_VERSION    another pinned release: 0.16.3, 0.18.2, 0.24.0, 0.27.0, 0.30.0
    D2F_CACHE           where releases and environments lie, instead of the user's cache folder
    D2F_FRONTEND        the folder of another version of ComfyUI's page, for every server that is started
    D2F_DEVICE          cpu or gpu, instead of what torch sees
    D2F_CHROMIUM        the browser for the browser tests
    D2F_PICTURES        where these keep their screenshots, instead of .d2f/screenshots
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time

from devtools.bench import bench, names
from devtools.console import DevError, say
from devtools.env import python_for
from devtools.frontend import NEWEST, VARIABLE, frontend
from devtools.host import find_host
from devtools.matrix import matrix
from devtools.prompts import WRITE
from devtools.screenshots import WHOLE, republish
from devtools.server import choose_port, running
from devtools.testing import test

ROOMS = ("core", "data", "host", "outside", "browser")


def serve(port: int | None, arguments: list[str]) -> None:
    """Run ComfyUI with the pack until the user interrupts."""
    port = choose_port(port)
    host = find_host()
    with running(host, python_for(host), port=port, extra=arguments) as server:
        say(f"ComfyUI {host.version} with Diff2Flow Kit: {server.url}\nIts files: {server.base}\nCtrl-C stops it.")
        while server.alive():
            time.sleep(0.5)
        raise DevError(f"ComfyUI stopped with code {server.process.returncode}; {server.log_tail()}")


def python(arguments: list[str]) -> int:
    """Run the environment's interpreter, with COMFYUI_PATH set."""
    host = find_host()
    environ = {**os.environ, "COMFYUI_PATH": str(host.path)}
    with subprocess.Popen([str(python_for(host)), *arguments], env=environ) as process:
        return wait(process)


def wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process; Ctrl-C reaches it as well, and it may take its time to clean up."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            if process.poll() is None:
                process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="dev.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    demos = commands.add_parser("demo", help="make the demo's images")
    demos.add_argument("--pictures", action="store_true", help="remake the repository's pictures with them, too")
    demos.add_argument("--outside", action="store_true", help="the part outside ComfyUI: diffusers, two processes")
    tests = commands.add_parser("test", help="run the tests; what follows -- goes to pytest")
    for room in ROOMS:
        tests.add_argument(f"--{room}", action="append_const", const=room, dest="rooms", help=f"only tests/{room}")
    tests.add_argument("--fast", action="store_true", help="leave out the slow tests, and the browser")
    tests.add_argument("--host-version", metavar="VERSIONS", help="on these pinned ComfyUIs: all, or a comma list")
    tests.add_argument(
        "--frontend", metavar="VERSION", help=f"another version of ComfyUI's page: {NEWEST}, or a number"
    )
    tests.add_argument("--pictures", action="store_true", help="remake the pictures of graphs in docs/images, too")
    tests.add_argument(
        "--prompts", action="store_true", help="write what the page sends for each graph (devtools/prompts)"
    )
    server = commands.add_parser("serve", help="run ComfyUI; what follows -- goes to its main.py")
    server.add_argument("--port", type=int, help="default: a free one")
    commands.add_parser("python", help="run the environment's interpreter", add_help=False)
    benchmark = commands.add_parser("bench", help="run a benchmark", add_help=False)
    benchmark.add_argument("name", metavar="NAME", choices=names(), help=", ".join(names()))
    return top


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["python"]:
        return python(arguments[1:])
    own, rest = split(arguments)
    options = parser().parse_args(own)
    if getattr(options, "frontend", None):
        os.environ[VARIABLE] = str(frontend(options.frontend))
    if getattr(options, "prompts", False):
        os.environ[WRITE] = "1"
    if options.command == "demo" and options.outside:
        return python(["-m", "devtools.outside"])
    if options.command == "demo":
        return python(["-m", "devtools.demo", *(["--pictures"] if options.pictures else [])])
    if options.command == "test" and options.host_version is not None:
        return matrix(options.host_version, options.rooms or [], options.fast, rest)
    if options.command == "test" and options.pictures:
        os.environ[WHOLE] = "1"
        return republish(lambda: test(options.rooms or [], options.fast, rest))
    if options.command == "test":
        return test(options.rooms or [], options.fast, rest)
    if options.command == "serve":
        serve(options.port, rest)
    elif options.command == "bench":
        return bench(options.name, rest)
    else:
        parser().print_help()
    return 0


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and those to hand on: after `--`, or after the name of a benchmark."""
    if arguments[:1] == ["bench"]:
        return arguments[:2], arguments[2:]
    if "--" in arguments:
        place = arguments.index("--")
        return arguments[:place], arguments[place + 1 :]
    return arguments, []


def stop(signum: int, frame: object) -> None:
    """End as on Ctrl-C, so that servers are stopped on the way out."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main(sys.argv[1:]))
    except DevError as error:
        sys.exit(f"dev.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
