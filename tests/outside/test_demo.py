"""`python dev.py demo --outside`: two processes teach the demo model a colour, as the node does."""

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from devtools.outside import PER_PROMPT, PROMPTS, demo


@pytest.mark.slow
def test_the_demo_learns_a_colour_outside_comfyui(tmp_path):
    """The node's own test asks for at most one picture before and at least seven of eight after."""
    counts = demo(tmp_path / "outside")
    assert counts["before"] <= 1
    assert counts["after"] >= len(PROMPTS) * PER_PROMPT - 1
    assert (tmp_path / "outside" / "before_after.png").is_file()
