"""A page of a real Chromium, opened at the session's ComfyUI, and the screenshots of it that are kept."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from devtools.browser import ARGUMENTS, find_browser
from devtools.client import Client
from devtools.console import DevError
from devtools.screenshots import screenshot_folder

from .editor import wait_until_idle

# As for a user who has seen the editor's welcome before. Whatever a page has changed before, the next one begins with
# these.
SETTINGS = {
    "Comfy.Locale": "en",
    "Comfy.VueNodes.Enabled": False,
    "Comfy.TutorialCompleted": True,
    "Comfy.RightSidePanel.IsOpen": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}
READY = """() => window.LiteGraph?.registered_node_types.D2FConvert && window.app?.canvas
  && app.extensionManager.workflow?.activeWorkflow && app.graph.nodes.length > 0"""


@pytest.fixture(scope="session")
def browser_context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium with a user folder of its own."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            path = find_browser() or Path(playwright.chromium.executable_path)
            context = playwright.chromium.launch_persistent_context(
                str(tmp_path_factory.mktemp("chromium")),
                executable_path=str(path),
                headless=True,
                args=ARGUMENTS,
                viewport={"width": 1600, "height": 1000},
            )
        except (DevError, Error) as error:
            reason = str(error).splitlines()[0]
            pytest.fail(
                f"no Chromium ({reason}); `python dev.py test` finds one or says what to install", pytrace=False
            )
        yield context
        context.close()


@pytest.fixture(scope="session")
def new_page(browser_context: Any, server: Client, host_path: Path) -> Callable[..., Any]:
    """`new_page()` is the editor with its default graph; `.errors` of it collects what goes wrong in it.

    `new_page({"Comfy.Locale": "zh"})`: with other settings.
    """
    server.upload_image(host_path / "input" / "example.png")  # ComfyUI's own, which a new base directory lacks

    def make(settings: Mapping[str, Any] = MappingProxyType({})) -> Any:
        server.post("/settings", {**SETTINGS, **settings})
        page = browser_context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.add_init_script("localStorage.clear(); sessionStorage.clear();")
        page.set_default_timeout(60_000)
        page.goto(server.url, wait_until="domcontentloaded")
        page.wait_for_function(READY)
        page.wait_for_timeout(1000)
        return page

    return make


@pytest.fixture(scope="module")
def editor(new_page: Callable[..., Any]) -> Iterator[Any]:
    """One page for all tests of a file."""
    page = new_page()
    yield page
    page.close()


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Iterator[Any]:
    """A page of its own."""
    page = new_page()
    yield page
    page.close()


@pytest.fixture(autouse=True)
def nothing_left_running(server: Client) -> Iterator[None]:
    """What a failed test leaves in the queue would hold up the next one's."""
    yield
    if any(server.get("/queue").values()):
        server.post("/queue", {"clear": True})
        server.interrupt()
        wait_until_idle(server)


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """The folder in which screenshots are kept."""
    folder = screenshot_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def picture(request: pytest.FixtureRequest, screenshots: Path) -> Callable[..., Path]:
    """`picture(page)` keeps a screenshot under the test's name; `label` tells several apart."""

    def take(page: Any, label: str = "") -> Path:
        path = screenshots / f"{file_name(request.node.name, label)}.png"
        page.screenshot(path=path)
        return path

    return take


def file_name(*parts: str) -> str:
    return "_".join(re.sub(r"\W+", "_", part).strip("_") for part in parts if part)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A screenshot of what a failed test was looking at."""
    report = yield
    page = next((value for value in item.funcargs.values() if hasattr(value, "screenshot")), None)
    if report.failed and page is not None:
        folder = screenshot_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Exception):  # the page may be what broke
            page.screenshot(path=folder / f"{file_name(item.name, 'failed', report.when)}.png")
    return report
