"""The test command over several pinned ComfyUI releases: one run of pytest each, and a table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from .console import DevError, say, table
from .host import RELEASES
from .testing import test

ALL = "all"


def matrix(wanted: str, rooms: Sequence[str], fast: bool, arguments: Sequence[str]) -> int:
    """Run the tests of `rooms` (tests/host when empty) on each release; 1 if any run went wrong, else 0."""
    versions = chosen(wanted)
    if os.environ.get("COMFYUI_PATH"):
        raise DevError("COMFYUI_PATH and --host-version name two ComfyUIs; unset COMFYUI_PATH to run pinned releases.")
    rows = []
    for version in versions:
        say(f"\n=== ComfyUI {version} ===")
        rows.append(row(version, rooms or ["host"], fast, arguments))
    say("\n" + table(rows))
    return int(any(one["failed"] != 0 for one in rows))


def chosen(wanted: str) -> list[str]:
    """The releases of `all`, or of a comma list, oldest first."""
    known = list(reversed(RELEASES))
    names = known if wanted == ALL else [name.strip() for name in wanted.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DevError(
            f"--host-version {', '.join(unknown)} is not a pinned ComfyUI; choose {ALL} or some of {', '.join(known)}."
        )
    return [version for version in known if version in names]


def row(version: str, rooms: Sequence[str], fast: bool, arguments: Sequence[str]) -> dict[str, object]:
    """The table's row about one release; what goes wrong with it, the next ones do not suffer from."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        environ = {**os.environ, "D2F_HOST_VERSION": version}
        try:
            code = test(rooms, fast, [*arguments, f"--junitxml={report}"], environ)
        except DevError as error:
            say(f"dev.py: {error}")
            return {"version": version, **nothing("no set-up")}
        return {"version": version, **(read(report, code) if report.is_file() else nothing(f"pytest: code {code}"))}


def nothing(reason: str) -> dict[str, object]:
    return {"passed": None, "skipped": None, "failed": reason, "seconds": None}


def read(report: Path, code: int) -> dict[str, object]:
    """What pytest's report in JUnit's format counts; `code`, its exit code, where nothing failed but it is not 0."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, report
    tests, skipped, failures, errors = (int(suite.get(key, 0)) for key in ("tests", "skipped", "failures", "errors"))
    failed = failures + errors
    return {
        "passed": tests - skipped - failed,
        "skipped": skipped,
        "failed": failed if failed or code == 0 else f"pytest: code {code}",
        "seconds": round(float(suite.get("time", 0))),
    }
