"""Another version of the page: unpacked once, handed to the server, and refused in words."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from devtools import frontend as page
from devtools.console import DevError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("D2F_CACHE", str(tmp_path))
    return tmp_path / "frontends"


def a_wheel(folder: Path, version: str) -> Path:
    wheel = folder / f"comfyui_frontend_package-{version}-py3-none-any.whl"
    files = ["index.html", "assets/a.js", "assets/a.js.map", "../evil"]
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in files:
            archive.writestr(f"comfyui_frontend_package/static/{name}", version)
        archive.writestr("comfyui_frontend_package/__init__.py", "")
    return wheel


def test_the_newest_is_unpacked_under_its_version(cache, monkeypatch):
    monkeypatch.setattr(page, "download", lambda requirement, folder: a_wheel(folder, "9.8.7"))
    folder = page.frontend("newest")
    assert folder == cache / "9.8.7"
    assert sorted(file.name for file in folder.rglob("*") if file.is_file()) == ["a.js", "index.html"]


def test_a_version_that_is_there_is_not_downloaded_again(cache, monkeypatch):
    monkeypatch.setattr(page, "download", lambda *args: pytest.fail("downloaded"))
    (cache / "1.2.3").mkdir(parents=True)
    (cache / "1.2.3" / "index.html").write_text("")
    assert page.frontend("1.2.3") == cache / "1.2.3"


@pytest.mark.parametrize("wanted", ["latest", "1", "../1.2", "1.2;x"])
def test_what_is_no_version_is_refused(wanted, cache):
    with pytest.raises(DevError, match=r"is not a version .*give newest, or a number"):
        page.frontend(wanted)


def test_a_failed_download_is_one_sentence_and_leaves_nothing(cache, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution\n")
    monkeypatch.setattr(page.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(DevError, match=r"could not download comfyui-frontend-package==0.0.1 \(ERROR: No matching"):
        page.frontend("0.0.1")
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_the_server_is_told(tmp_path):
    assert page.page_arguments({}) == []
    with pytest.raises(DevError, match="holds no page"):
        page.page_arguments({page.VARIABLE: str(tmp_path)})
    (tmp_path / "index.html").write_text("")
    assert page.page_arguments({page.VARIABLE: str(tmp_path)}) == ["--front-end-root", str(tmp_path)]
