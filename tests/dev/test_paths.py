"""Where things lie on the three systems, and links to folders."""

from pathlib import Path

import pytest

from devtools.paths import cache_root, link_folder, venv_python

HOME = Path("home") / "ada"


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {}, HOME / ".cache" / "diff2flow-kit"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, Path("xdg") / "diff2flow-kit"),
        ("darwin", {"XDG_CACHE_HOME": "xdg"}, HOME / "Library" / "Caches" / "diff2flow-kit"),
        ("win32", {"LOCALAPPDATA": "local"}, Path("local") / "diff2flow-kit"),
        ("win32", {}, HOME / "AppData" / "Local" / "diff2flow-kit"),
    ],
)
def test_the_cache_lies_where_the_system_wants_it(platform, environ, expected):
    assert cache_root(platform, environ, HOME) == expected


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_d2f_cache_overrides_the_place(platform, tmp_path):
    assert cache_root(platform, {"D2F_CACHE": str(tmp_path), "XDG_CACHE_HOME": "xdg"}, HOME) == tmp_path


def test_the_interpreter_of_an_environment():
    assert venv_python(Path("env"), "linux") == Path("env/bin/python")
    assert venv_python(Path("env"), "win32") == Path("env/Scripts/python.exe")


def test_a_link_leads_to_the_folder_and_is_mended(tmp_path):
    first, second, link = tmp_path / "first", tmp_path / "second", tmp_path / "deep" / "link"
    for folder in (first, second):
        folder.mkdir()
        (folder / "name.txt").write_text(folder.name)
    link_folder(first, link)
    link_folder(first, link)
    assert (link / "name.txt").read_text() == "first"
    link_folder(second, link)
    assert (link / "name.txt").read_text() == "second"
    assert (first / "name.txt").read_text() == "first"
