"""The registry's archive alone in a fresh ComfyUI: every node, template and page is there, and it makes an image."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from devtools.client import Client, RequestError
from devtools.host import Host, read_version
from devtools.package import export, pack, unpack
from devtools.prompts import prompt_for
from devtools.server import ADDRESS, running

NAME = "diff2flow-kit"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The files that the archive is made of."""
    return export(tmp_path_factory.mktemp("package") / NAME)


@pytest.fixture(scope="module")
def base(source, tmp_path_factory):
    """A working directory of a ComfyUI in which the archive is unpacked, and nothing else is installed."""
    folder = tmp_path_factory.mktemp("fresh")
    unpack(pack(source), folder / "custom_nodes" / NAME)
    return folder


@pytest.fixture(scope="module")
def installed(base):
    """The unpacked pack, and the names of its files."""
    folder = base / "custom_nodes" / NAME
    return folder, {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def fresh(host_path, base, installed):
    """A client of the server with the unpacked archive."""
    host = Host(host_path, read_version(host_path))
    with running(host, Path(sys.executable), base, threads=1, packs={}) as process:
        client = Client(ADDRESS, process.port, process.alive)
        client.log = process.log
        yield client


def stems(folder, pattern):
    return {path.stem for path in folder.glob(pattern)}


def test_it_is_the_archive_and_not_the_checkout(installed, root):
    folder, _ = installed
    assert not folder.is_symlink() and root not in folder.resolve().parents and folder.resolve() != root
    assert not (folder / "tests").exists()


def test_every_node_is_there(fresh, source):
    info = fresh.object_info()
    ours = {name for name, definition in info.items() if definition["python_module"] == f"custom_nodes.{NAME}"}
    assert ours == stems(source / "web" / "docs", "D2F*.md")
    assert "IMPORT FAILED" not in fresh.log.read_text(encoding="utf-8", errors="replace")


def test_every_template_is_there_with_its_thumbnail(fresh, source):
    names = fresh.get("/workflow_templates")[NAME]
    assert set(names) == stems(source / "workflows", "*.json")
    for name in names:
        assert fresh.get(f"/api/workflow_templates/{NAME}/{name}.json")["nodes"]
        assert fresh.request(f"/api/workflow_templates/{NAME}/{name}.jpg").startswith(b"\xff\xd8")


def test_every_page_is_there(fresh, source):
    for page in (source / "web" / "docs").rglob("*.md"):
        place = page.relative_to(source / "web").as_posix()
        assert fresh.request(f"/extensions/{NAME}/{place}") == page.read_bytes(), place


def test_every_language_is_there(fresh, source):
    words = fresh.get("/i18n")
    for folder in (source / "locales").iterdir():
        own = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
        assert own.items() <= words[folder.name]["nodeDefs"].items()


def test_every_blueprint_is_there(fresh, source):
    try:
        found = fresh.get("/global_subgraphs")
    except RequestError:
        pytest.skip("this ComfyUI has no subgraph blueprints")
    ours = {entry["name"] for entry in found.values() if entry["info"]["node_pack"] == f"custom_nodes.{NAME}"}
    assert ours == stems(source / "subgraphs", "*.json")


def test_the_demo_makes_its_images(fresh):
    from PIL import Image

    result = fresh.run(prompt_for("01 Convert and sample"))
    pictures = [np.asarray(Image.open(io.BytesIO(fresh.view(image)))) for image in result.images()]
    assert pictures and all(picture.std() > 10 for picture in pictures)


def test_nothing_is_written_into_the_pack(fresh, installed):
    folder, before = installed
    now = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in now - before if "__pycache__" not in name} == set()
    assert before <= now
