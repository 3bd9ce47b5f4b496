"""The tests on several ComfyUIs: one run of pytest each, what went wrong on one stops no other, and a table."""

import os
import signal
import subprocess
import sys
import time

import pytest

from devtools import matrix, testing
from devtools.console import DevError

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10"
time="12.345" timestamp="2026-01-01T00:00:00+00:00" hostname="x"/></testsuites>
"""
PASSED = REPORT.replace('errors="1" failures="2"', 'errors="0" failures="0"')


@pytest.fixture
def runs(monkeypatch):
    """`runs(**results)` -> list of what pytest would be called with; a result is its report, exit code or error."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)

    def prepare(results):
        done = []

        def test(rooms, fast, arguments, environ):
            version = environ["D2F_HOST_VERSION"]
            *passed, report = arguments
            done.append((version, list(rooms), fast, passed))
            result = results.get(version, PASSED)
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, int):
                return result
            with open(report.removeprefix("--junitxml="), "w", encoding="utf-8") as file:
                file.write(result)
            return int(result != PASSED)

        monkeypatch.setattr(matrix, "test", test)
        return done

    return prepare


def test_all_means_every_pinned_release_oldest_first(runs, capsys):
    done = runs({})
    assert matrix.matrix("all", [], False, []) == 0
    assert [version for version, *_ in done] == ["0.16.3", "0.18.2", "0.24.0", "0.27.0", "0.30.0"]
    assert {tuple(rooms) for _, rooms, *_ in done} == {("host",)}
    lines = capsys.readouterr().out.splitlines()[-7:]
    assert lines[0].split() == ["version", "passed", "skipped", "failed", "seconds"]
    assert lines[2].split() == ["0.16.3", "7", "3", "0", "12"]
    assert lines[6].split() == ["0.30.0", "7", "3", "0", "12"]


def test_the_scheduled_workflow_runs_on_every_pinned_release(root):
    text = (root / ".github" / "workflows" / "hosts.yml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "version: [" in line and "." in line)
    assert [name.strip(' "') for name in line.partition("[")[2].rstrip("]").split(",")] == matrix.chosen("all")


def test_what_fails_on_one_release_stops_no_other_and_shows_in_the_exit_code(runs, capsys):
    done = runs({"0.16.3": REPORT, "0.18.2": DevError("no network"), "0.24.0": 4})
    assert matrix.matrix("all", [], False, []) == 1
    assert len(done) == 5
    out = capsys.readouterr().out
    assert "dev.py: no network" in out
    rows = [line.split() for line in out.splitlines()[-5:]]
    assert rows[0] == ["0.16.3", "4", "3", "3", "12"]
    assert rows[1] == ["0.18.2", "-", "-", "no", "set-up", "-"]
    assert rows[2] == ["0.24.0", "-", "-", "pytest:", "code", "4", "-"]
    assert rows[3] == ["0.27.0", "7", "3", "0", "12"]


def test_the_report_of_a_real_run_is_understood(tmp_path):
    file, report = tmp_path / "test_it.py", tmp_path / "report.xml"
    file.write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): pass\ndef test_c(): assert 0\ndef test_d(): pytest.skip()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(file)]
    code = subprocess.run(command, cwd=tmp_path, capture_output=True).returncode
    counted = matrix.read(report, code)
    assert (counted["passed"], counted["skipped"], counted["failed"]) == (2, 1, 1)


@pytest.mark.parametrize("wanted", ["1.2.3", "0.16.3,1.2.3", ""])
def test_an_unknown_release_is_one_sentence_with_the_known_ones(runs, wanted):
    done = runs({})
    with pytest.raises(DevError, match=r"--host-version .*choose all or some of 0.16.3, .*0.30.0\.") as error:
        matrix.matrix(wanted, [], False, [])
    assert "\n" not in str(error.value)
    assert done == []


def test_the_users_own_comfyui_is_refused(runs, monkeypatch):
    done = runs({})
    monkeypatch.setenv("COMFYUI_PATH", "/somewhere")
    with pytest.raises(DevError, match="COMFYUI_PATH and --host-version name two ComfyUIs; unset COMFYUI_PATH"):
        matrix.matrix("all", [], False, [])
    assert done == []


def test_only_what_lies_in_tests_takes_the_place_of_a_room():
    assert testing.names_tests("tests/host/test_schema.py::test_the_nodes_are_there")
    assert not testing.names_tests("demo")
    assert not testing.names_tests("tests/host/test_nothing.py")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_pytest_gets_to_clean_up_when_only_this_process_is_interrupted(tmp_path, monkeypatch):
    """A stand-in for pytest starts, this process is interrupted, the stand-in hears of it and ends in its own time."""
    code = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's job in the background ignores it
        "try:\n    pathlib.Path('started').touch()\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5)\n    pathlib.Path('cleaned').touch()\n"
    )
    monkeypatch.setattr(testing, "ROOT", tmp_path)
    wait = subprocess.Popen.wait

    def interrupted(self, timeout=None):
        if timeout is None and not (tmp_path / "started").exists():
            while not (tmp_path / "started").exists():
                time.sleep(0.05)
            raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        testing.call([sys.executable, "-c", code], os.environ, patience=0.1)
    assert (tmp_path / "cleaned").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_what_does_not_hear_an_interrupt_is_ended():
    deaf = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        testing.interrupt(process, patience=0.2)
        assert process.returncode == -signal.SIGTERM
