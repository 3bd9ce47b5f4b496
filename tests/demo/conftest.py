"""The demo checkpoint, loaded once, as a stock loader would return it."""

from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def demo_checkpoint(pack: ModuleType) -> tuple:
    """(MODEL, CLIP, VAE) of the embedded demo model."""
    from diff2flow_kit.demo.networks import load_demo_checkpoint

    return load_demo_checkpoint()
