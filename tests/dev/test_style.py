"""ruff and mypy have nothing to say, sources are ASCII, and functions stay short enough to read."""

import importlib.util
import subprocess
import sys

import pytest


def run(root, module, *arguments):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed in this Python; the set-up environment has it")
    result = subprocess.run([sys.executable, "-m", module, *arguments], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff(root):
    run(root, "ruff", "check", "--no-cache", ".")


@pytest.mark.slow
def test_mypy(root):
    run(root, "mypy")


def test_python_sources_are_ascii(root):
    sources = [
        path for path in root.rglob("*.py") if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    odd = [str(path) for path in sources if not path.read_bytes().isascii()]
    assert sources
    assert odd == []
