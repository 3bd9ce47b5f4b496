"""A page of a real Chromium, opened at the session's ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools.browser import ARGUMENTS, find_browser
from devtools.client import Client


@pytest.fixture(scope="session")
def browser_context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium with a user folder of its own."""
    from playwright.sync_api import sync_playwright

    path: Path | None = find_browser()
    if path is None:
        pytest.fail("no Chromium; install one, or name one in D2F_CHROMIUM", pytrace=False)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("chromium")),
            executable_path=str(path),
            headless=True,
            args=ARGUMENTS,
            viewport={"width": 1600, "height": 1000},
        )
        yield context
        context.close()


@pytest.fixture
def page(browser_context: Any, server: Client) -> Iterator[Any]:
    """ComfyUI's own page, loaded and ready; `page.errors` collects what goes wrong in it."""
    page = browser_context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function("() => window.app && window.app.graph && window.app.extensionManager", timeout=60_000)
    yield page
    page.close()
