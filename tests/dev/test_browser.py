"""A browser for the browser tests: where it is looked for, what is installed, and one sentence when there is none."""

import os
from pathlib import Path

import pytest

from devtools import browser
from devtools.browser import ensure_browser, find_browser, why_it_fails
from devtools.console import DevError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="runs scripts")


def program(path: Path, script: str = "exit 0") -> Path:
    """A shell script in the place of a browser."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """No browser anywhere; `machine.wares[word] = path`: an installation with that word in it puts one there."""

    class Machine:
        bin = tmp_path / "bin"
        wares: dict[str, Path] = {}
        tried: list[str] = []

    def log_run(command, doing, failure, variables=None):
        Machine.tried.append(" ".join(command))
        found = [path for word, path in Machine.wares.items() if word in Machine.tried[-1]]
        if not found:
            raise DevError("it failed; the log is long\nand has lines")
        program(found[0])

    Machine.wares, Machine.tried = {}, []
    monkeypatch.setattr(browser, "log_run", log_run)
    monkeypatch.setattr(browser, "PLACES", [])
    monkeypatch.setattr(
        browser, "installed_by_playwright", lambda python: [p for p in [tmp_path / "own"] if p.exists()]
    )
    monkeypatch.setattr(browser, "install_commands", lambda python: [["apt-get"], ["playwright"]])
    monkeypatch.setenv("PATH", str(Machine.bin))
    monkeypatch.delenv("D2F_CHROMIUM", raising=False)
    return Machine


def test_d2f_chromium_wins(machine, monkeypatch, tmp_path):
    own, other = program(tmp_path / "mine"), program(machine.bin / "chromium")
    assert find_browser() == ensure_browser(Path("python")) == other
    monkeypatch.setenv("D2F_CHROMIUM", str(own))
    assert find_browser() == ensure_browser(Path("python")) == own


@pytest.mark.parametrize(("make", "words"), [
    (lambda path: None, "is not a file; correct it, or unset it"),
    (lambda path: program(path, "exit 3"), r"does not start \(exit code 3\); name another Chromium"),
])  # fmt: skip
def test_a_wrong_d2f_chromium_is_one_sentence(machine, monkeypatch, tmp_path, make, words):
    make(tmp_path / "mine")
    monkeypatch.setenv("D2F_CHROMIUM", str(tmp_path / "mine"))
    with pytest.raises(DevError, match=f"D2F_CHROMIUM=.*mine {words}") as error:
        ensure_browser(Path("python"))
    assert "\n" not in str(error.value) and machine.tried == []


@pytest.mark.parametrize("name", browser.NAMES)
def test_the_path_is_searched_and_then_the_usual_places(machine, monkeypatch, tmp_path, name):
    monkeypatch.setattr(browser, "PLACES", [program(tmp_path / "usual")])
    assert find_browser() == tmp_path / "usual"
    found = program(machine.bin / name)
    assert find_browser() == found


def test_what_does_not_start_says_why_and_the_next_one_is_taken(machine, tmp_path):
    assert why_it_fails(program(tmp_path / "bad", "echo 'libnss3.so is missing' >&2; exit 127")) == (
        "libnss3.so is missing"
    )
    assert why_it_fails(program(tmp_path / "slow", "exec /bin/sleep 60"), seconds=0.2) == "nothing came within 0.2 s"
    assert "snap" in why_it_fails(program(tmp_path / "snap", "exec /snap/bin/chromium"))
    program(machine.bin / "chromium", "exit 3")
    good = program(machine.bin / "google-chrome")
    assert ensure_browser(Path("python")) == good


def test_what_is_missing_is_installed_from_debian_else_by_playwright(machine, tmp_path):
    machine.wares["playwright"] = tmp_path / "own"
    assert ensure_browser(Path("python")) == tmp_path / "own"
    assert machine.tried == ["apt-get", "playwright"]
    machine.wares["apt-get"] = machine.bin / "chromium"
    (tmp_path / "own").unlink()
    assert ensure_browser(Path("python")) == machine.bin / "chromium"


def test_no_browser_is_one_sentence_that_says_what_to_do(machine):
    program(machine.bin / "chromium", "exit 3")
    with pytest.raises(
        DevError, match=r"^There is no Chromium .*chromium does not start \(exit code 3\).*D2F_CHROMIUM"
    ) as error:
        ensure_browser(Path("python"))
    assert "\n" not in str(error.value)


def test_questions_are_never_asked():
    apt, playwright = ["sh", "-c", "apt-get update && apt-get install -y chromium"], ["py", "-m", "playwright"]
    commands = browser.install_commands(Path("py"))
    assert commands[-1][:3] == playwright and commands[:-1] in ([], [apt])
