"""All tests in two processes: both are run and shown, and a failure of either is the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools import testing

PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."]


@pytest.fixture
def halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], int]:
    """`halves(core, host)` -> the result of a repository whose two folders of tests hold this code."""
    monkeypatch.setattr(testing, "ROOT", tmp_path)

    def run(core: str, host: str) -> int:
        for name, code in (("core", core), ("host", host)):
            folder = tmp_path / "tests" / name
            folder.mkdir(parents=True)
            (folder / f"test_{name}.py").write_text(f"def test_it():\n    {code}\n", encoding="utf-8")
        return testing.side_by_side(PYTEST, os.environ)

    return run


def test_both_are_run_and_shown(halves: Callable[[str, str], int], capfd: pytest.CaptureFixture[str]):
    assert halves("pass", "assert True") == 0
    assert capfd.readouterr().out.count("1 passed") == 2


@pytest.mark.parametrize("codes", [("assert False", "pass"), ("pass", "assert False")])
def test_a_failure_of_either_is_one(codes: tuple[str, str], halves: Callable[[str, str], int]):
    assert halves(*codes) == 1


def test_each_has_its_share_of_the_processors(halves: Callable[[str, str], int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    code = "import os; assert os.environ['OMP_NUM_THREADS'] == '4'"
    assert halves(code, code) == 0
