"""A browser for the browser tests: where it is looked for, what is installed, and one sentence when there is none."""

import os
import subprocess
from pathlib import Path

import pytest

from devtools import browser
from devtools.browser import advice, ensure_browser, find_browser, why_it_fails
from devtools.console import DevError

posix = pytest.mark.skipif(os.name == "nt", reason="runs scripts")


def program(path: Path, script: str = "exit 0") -> Path:
    """A shell script in the place of a browser."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def one_sentence(error: object) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith(".") and ". " not in text.replace("Chrome's .deb", "")


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No browser anywhere, and nothing that could be installed; a list of what was tried.

    `bare.brings(word, path)`: a command with that word in it puts a browser there.
    """

    class Machine(list):
        wares: dict[str, tuple[Path, str]] = {}
        root = True

        def brings(self, word, path, script="exit 0"):
            self.wares = {**self.wares, word: (path, script)}

    machine = Machine()
    machine.bin = tmp_path / "bin"
    machine.environ = {"PATH": str(machine.bin)}
    machine.own = tmp_path / "playwright" / "chrome"

    def log_run(command, doing, failure, variables=None):
        machine.append(" ".join(command))
        found = [ware for word, ware in machine.wares.items() if word in machine[-1]]
        if not found:
            raise DevError("it failed; the log is long\nand has lines")
        program(*found[0])

    monkeypatch.setattr(browser, "log_run", log_run)
    monkeypatch.setattr(browser, "may_use_apt", lambda: machine.root)
    monkeypatch.setattr(browser, "installed_by_playwright", lambda python: [machine.own] * machine.own.exists())
    monkeypatch.setattr(browser, "cache_root", lambda: Path("cache"))
    return machine


# --- Finding ----------------------------------------------------------------------------------------


@posix
def test_d2f_chromium_wins(bare, tmp_path):
    own, other = program(tmp_path / "mine"), program(bare.bin / "chromium")
    assert find_browser(bare.environ, "linux") == other
    assert find_browser({**bare.environ, "D2F_CHROMIUM": str(own)}, "linux") == own


def test_a_wrong_d2f_chromium_is_one_sentence(tmp_path):
    with pytest.raises(DevError, match=r"D2F_CHROMIUM=.*nowhere is not a file; correct it, or unset it") as error:
        ensure_browser(Path("python"), {"D2F_CHROMIUM": str(tmp_path / "nowhere")}, "linux")
    assert one_sentence(error.value)


@posix
@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"])
def test_the_path_is_searched(name, bare):
    found = program(bare.bin / name)
    assert find_browser(bare.environ, "linux") == found
    assert find_browser({"PATH": ""}, "linux") is None


@pytest.mark.parametrize("root", ["PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"])
def test_the_usual_places_of_windows(root, tmp_path, monkeypatch):
    monkeypatch.setitem(browser.PLACES, "win32", ["Chrome/chrome.exe", "Edge/msedge.exe"])
    edge = tmp_path / "Edge" / "msedge.exe"
    edge.parent.mkdir()
    edge.touch()
    assert find_browser({"PATH": "", root: str(tmp_path)}, "win32") == edge
    assert find_browser({"PATH": "", root: str(tmp_path)}, "linux") is None


def test_the_usual_places_of_macos(tmp_path, monkeypatch):
    monkeypatch.setitem(browser.PLACES, "darwin", [str(tmp_path / "Chrome"), str(tmp_path / "Chromium")])
    (tmp_path / "Chromium").touch()
    assert find_browser({"PATH": ""}, "darwin") == tmp_path / "Chromium"
    assert find_browser({"PATH": ""}, "win32") is None


def test_every_usual_place_is_where_installers_put_it():
    assert browser.PLACES["win32"][0] == r"Google\Chrome\Application\chrome.exe"
    assert browser.PLACES["darwin"][0] == "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


# --- Starting ---------------------------------------------------------------------------------------


@posix
def test_what_does_not_start_says_why(tmp_path):
    assert why_it_fails(program(tmp_path / "good")) == ""
    assert why_it_fails(program(tmp_path / "bad", "echo noise >&2; echo 'libnss3.so is missing' >&2; exit 127")) == (
        "libnss3.so is missing"
    )
    assert why_it_fails(program(tmp_path / "mute", "exit 3")) == "exit code 3"
    assert why_it_fails(program(tmp_path / "slow", "exec sleep 60"), seconds=0.2) == "nothing came within 0.2 s"
    (tmp_path / "text").write_text("not a program")
    assert why_it_fails(tmp_path / "text") == "Permission denied"


@posix
def test_a_browser_gets_a_folder_of_its_own_and_no_window(tmp_path):
    script = 'case "$*" in *--headless*--user-data-dir=/*about:blank) exit 0;; *) echo "$@" >&2; exit 1;; esac'
    assert why_it_fails(program(tmp_path / "picky", script)) == ""


@posix
def test_a_snap_is_known_without_starting_it(tmp_path):
    script = program(tmp_path / "chromium-browser", "exec /snap/bin/chromium")
    link = tmp_path / "chromium"
    link.symlink_to(program(tmp_path / "usr" / "bin" / "snap"))
    for path in (script, link, Path("/snap/bin/chromium")):
        assert why_it_fails(path) == "it is a snap, which does not see the tests' folders"


@posix
def test_a_broken_d2f_chromium_is_one_sentence(bare, tmp_path):
    own = program(tmp_path / "mine", "echo 'no display' >&2; exit 1")
    with pytest.raises(DevError, match=r"mine does not start \(no display\); name another Chromium") as error:
        ensure_browser(Path("python"), {"D2F_CHROMIUM": str(own)}, "linux")
    assert one_sentence(error.value)
    assert bare == []


@posix
def test_a_broken_browser_is_passed_over(bare):
    program(bare.bin / "chromium", "exit 1")
    good = program(bare.bin / "google-chrome")
    assert ensure_browser(Path("python"), bare.environ, "linux") == good
    assert bare == []


# --- Installing -------------------------------------------------------------------------------------


@posix
def test_what_playwright_has_is_taken_before_installing(bare):
    program(bare.own)
    assert ensure_browser(Path("python"), bare.environ, "linux") == bare.own
    assert bare == []


@posix
def test_root_on_debian_installs_debians(bare):
    bare.brings("apt-get", bare.bin / "chromium")
    assert ensure_browser(Path("python"), bare.environ, "linux") == bare.bin / "chromium"
    assert len(bare) == 1 and "apt-get install -y chromium" in bare[0]


@posix
def test_others_install_playwrights(bare):
    bare.root = False
    bare.brings("playwright", bare.own)
    assert ensure_browser(Path("py"), bare.environ, "linux") == bare.own
    assert bare == ["py -m playwright install chromium"]


@posix
@pytest.mark.parametrize("ubuntu", [True, False], ids=["a snap comes", "apt fails"])
def test_playwrights_is_installed_where_apt_brings_none(ubuntu, bare):
    if ubuntu:
        bare.brings("apt-get", bare.bin / "chromium-browser", "/snap/bin/chromium")
    bare.brings("playwright", bare.own)
    assert ensure_browser(Path("py"), bare.environ, "linux") == bare.own
    assert len(bare) == 2


@posix
@pytest.mark.parametrize(
    ("platform", "debian", "remedy"),
    [
        ("linux", True, "sudo apt install chromium"),
        ("linux", False, "your distribution's package of Chromium"),
        ("freebsd14", False, "your distribution's package of Chromium"),
        ("darwin", False, "brew install --cask google-chrome"),
        ("win32", False, "winget install Google.Chrome"),
    ],
)
def test_when_nothing_helps_one_sentence_says_what_to_install(platform, debian, remedy, bare, monkeypatch):
    which = browser.shutil.which
    monkeypatch.setattr(
        browser.shutil, "which", lambda name, **more: debian if name == "apt-get" else which(name, **more)
    )
    monkeypatch.setitem(browser.PLACES, platform, [])
    broken = program(bare.bin / "chromium", "echo 'cannot start' >&2; exit 1")
    with pytest.raises(DevError) as error:
        ensure_browser(Path("python"), bare.environ, platform)
    assert remedy in str(error.value)
    assert "D2F_CHROMIUM" in str(error.value)
    assert f"{broken} does not start (cannot start)" in str(error.value)
    assert one_sentence(error.value)


def test_the_sentence_without_a_broken_browser(monkeypatch):
    assert "does not start" not in advice("darwin", {})


def test_playwright_is_asked_for_its_own(monkeypatch, tmp_path):
    chrome = tmp_path / "chrome"
    answer = subprocess.CompletedProcess([], 0, f"{chrome}\n", "")
    monkeypatch.setattr(browser.subprocess, "run", lambda *args, **kwargs: answer)
    assert browser.installed_by_playwright(Path("python")) == []
    chrome.touch()
    assert browser.installed_by_playwright(Path("python")) == [chrome]
    answer.returncode = 1
    assert browser.installed_by_playwright(Path("python")) == []
