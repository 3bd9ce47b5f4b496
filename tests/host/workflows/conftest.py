"""The demo graphs, each run once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from devtools.client import Client
from devtools.prompts import prompt_for

from .graphs import OWN, own_prompt, saved_images


@pytest.fixture(scope="session")
def ran(server: Client) -> Callable[[Path], dict[str, list[Image.Image]]]:
    """`ran(path)` -> {file name prefix: images} of a demo graph, run once for all tests."""
    done: dict[Path, dict[str, list[Image.Image]]] = {}

    def run(path: Path) -> dict[str, list[Image.Image]]:
        if path not in done:
            prompt = own_prompt(path.stem) if path.parent == OWN else prompt_for(path.stem)
            done[path] = saved_images(server, prompt)
        return done[path]

    return run
