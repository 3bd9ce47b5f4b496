"""Modules of the second world, and a few scenes with their pictures."""

import importlib
from types import ModuleType
from typing import Protocol

import numpy as np
import pytest


class Find(Protocol):
    """Imports a module of the demo by its name."""

    def __call__(self, name: str) -> ModuleType: ...


@pytest.fixture(scope="session")
def demo() -> Find:
    """demo("world.reader") is that module."""
    return lambda name: importlib.import_module(f"diff2flow_kit.demo.{name}")


@pytest.fixture(scope="session")
def twelve(demo):
    """Twelve scenes of any words in the style "render", and their pictures."""
    rng = np.random.default_rng(5)
    scenes = [demo("world.scenes").sample_scene(rng, held_out=True) for _ in range(12)]
    return scenes, demo("world.render").render_batch(scenes, samples=1)
