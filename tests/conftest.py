"""Fixtures that all tests share. Nothing heavy is imported before a test asks for it.

`d2f_core` and `devtools` can be imported by every test. What needs ComfyUI goes through the fixtures
`comfy` (importable in this process) and `server` (a real one, over its API).
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from devtools.client import Client

ROOT = Path(__file__).resolve().parent.parent


def load_devtools() -> None:
    """Import `devtools` by its path; `python -m pytest` has put the repository root on `sys.path`."""
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != ROOT]
    folder = ROOT / "devtools"
    spec = importlib.util.spec_from_file_location(
        "devtools", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["devtools"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["devtools"])


load_devtools()

from devtools import pack as loading  # noqa: E402

loading.register()


def pytest_configure() -> None:
    """End as on Ctrl-C when pytest is told to end, so that its servers are stopped.

    A shell starts background jobs with Ctrl-C ignored, and servers would inherit that.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in tests/host and tests/browser carries the marker of its room."""
    for item in items:
        for room in ("host", "browser"):
            if ROOT / "tests" / room in item.path.parents:
                item.add_marker(room)


@pytest.fixture(scope="session")
def fake_device() -> type:
    """The class in `fake_device.py`: a device without float64."""
    return load_file(ROOT / "tests" / "fake_device.py").FakeDevice


@pytest.fixture(scope="session")
def live_memory() -> type:
    """The class in `benchmarks/shared/live_memory.py`: counts the bytes that are alive on a device."""
    return load_file(ROOT / "benchmarks" / "shared" / "live_memory.py").LiveMemory


def load_file(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def version(root: Path) -> str:
    """The version of the pack."""
    return re.findall(r'^version = "(.+)"', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]


@pytest.fixture(scope="session")
def host_path() -> Path:
    """Where ComfyUI lies."""
    if not os.environ.get("COMFYUI_PATH"):
        pytest.fail("COMFYUI_PATH is not set; `python dev.py test` sets it up", pytrace=False)
    return Path(os.environ["COMFYUI_PATH"])


@pytest.fixture(scope="session")
def comfy(host_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """ComfyUI's `comfy` package, importable in this process; its output goes to a temporary folder."""
    loading.enter_host(host_path, tmp_path_factory.mktemp("comfyui"))
    import comfy

    return comfy


@pytest.fixture(scope="session")
def one_page() -> ModuleType:
    """`docs/diff2flow.py`: the method, written without the kit."""
    spec = importlib.util.spec_from_file_location("one_page", ROOT / "docs" / "diff2flow.py")
    assert spec is not None and spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


@pytest.fixture(scope="session")
def pack(comfy: ModuleType) -> ModuleType:
    """The pack as the package `diff2flow_kit`, as ComfyUI would have loaded it."""
    return loading.load_pack()


@pytest.fixture(scope="session")
def server(host_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a real ComfyUI with the pack in it, one for the whole session.

    `.object_info()`, `.run(prompt)`, `.interrupt()`, `.upload_image(path)`; `.base` is its working
    directory, `.log` its log file and `.url` its address.
    """
    from devtools.client import Client
    from devtools.host import Host, read_version
    from devtools.server import ADDRESS, running

    host = Host(host_path, read_version(host_path))
    with running(host, Path(sys.executable), tmp_path_factory.mktemp("server"), threads=1) as process:
        client = Client(ADDRESS, process.port, process.alive)
        client.base, client.log, client.url = process.base, process.log, process.url
        yield client
