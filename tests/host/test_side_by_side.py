"""Beside another pack, ours changes nothing of it, nor of ComfyUI; it costs little to import.

The other pack is careless, as real ones are: it puts its folder on `sys.path` and calls modules of its own
`host`, `inputs` and `d2f_core`. Both are loaded in both orders in a process of their own, as the server does it,
and once by a real server.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from devtools.client import Client
from devtools.host import Host, read_version
from devtools.paths import ROOT, link_folder
from devtools.server import ADDRESS, running

OTHER, OURS = "other-pack", "diff2flow-kit"
OPTIONAL = {
    "diffusers", "peft", "kornia", "torchdiffeq", "prodigyopt", "schedulefree", "bitsandbytes", "matplotlib",
    "transformers", "PIL", "pandas", "sklearn", "cv2",
}  # fmt: skip
NEIGHBOURS_WORDS = [f"{name} of the other pack" for name in ("host", "inputs", "d2f_core")]
NEIGHBOUR = {
    "__init__.py": """
import os, sys
sys.path.insert(0, os.path.dirname(__file__))
import comfy.samplers, d2f_core, host, inputs
from aiohttp import web
from server import PromptServer
from comfy.k_diffusion import sampling
from .nodes.main import OtherNode
NODE_CLASS_MAPPINGS = {"OtherNode": OtherNode}
NODE_DISPLAY_NAME_MAPPINGS = {"OtherNode": "Other"}
WEB_DIRECTORY = "./js"
sampling.sample_other = sampling.sample_euler
comfy.samplers.SAMPLER_NAMES.append("other")
if comfy.samplers.KSampler.SAMPLERS is not comfy.samplers.SAMPLER_NAMES:
    comfy.samplers.KSampler.SAMPLERS.append("other")
comfy.samplers.SCHEDULER_NAMES.append("other")
@PromptServer.instance.routes.get("/other/hello")
async def hello(request):
    return web.json_response([host.WHO, inputs.WHO, d2f_core.WHO])
""",
    "host.py": "WHO = 'host of the other pack'",
    "inputs.py": "WHO = 'inputs of the other pack'",
    "d2f_core/__init__.py": "WHO = 'd2f_core of the other pack'",
    "nodes/__init__.py": "",
    "nodes/main.py": """
class OtherNode:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "other", "run", ("STRING",), True
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": "x"})}}
    def run(self, text):
        import d2f_core, host, inputs
        words = [text, host.WHO, inputs.WHO, d2f_core.WHO]
        return {"ui": {"text": words}, "result": (str(words),)}
""",
    "js/other.js": "console.log('other')",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def neighbour(tmp_path_factory):
    """The other pack, on disk."""
    folder = tmp_path_factory.mktemp("neighbour") / OTHER
    for name, text in NEIGHBOUR.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """`ours(name)` -> the checkout under that name."""

    def link(name=OURS):
        folder = tmp_path_factory.mktemp("ours") / name
        link_folder(ROOT, folder)
        return folder

    return link


@pytest.fixture(scope="module")
def probe(host_path, tmp_path_factory):
    """`probe(*packs)` -> what `loading_probe.py` says of loading these packs in this order."""

    def run(*packs):
        script, base = Path(__file__).with_name("loading_probe.py"), tmp_path_factory.mktemp("base")
        (base / "custom_nodes").mkdir()
        command = [sys.executable, str(script), str(host_path), str(base), *map(str, packs)]
        result = subprocess.run(command, cwd=base, capture_output=True, encoding="utf-8")
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads(result.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def orders(probe, neighbour, ours):
    """Each way of loading: the other pack alone, ours first, ours last under another name."""
    renamed = ours("ComfyUI Diff2Flow")
    return {
        "alone": probe(neighbour),
        "first": probe(ours(), neighbour),
        "last": probe(neighbour, renamed),
    }


def of_ours(result):
    return next(done for name, done in result["packs"].items() if name != OTHER)


@pytest.mark.parametrize("order", ["first", "last"])
def test_ours_adds_its_own_nodes_and_nothing_else(orders, order):
    done = of_ours(orders[order])
    assert done["loaded"] and len(done["nodes"]) >= 19
    assert all(name.startswith("D2F") for name in done["nodes"])
    assert done["taken"] == done["replaced"] == []
    for key in ("path", "samplers", "schedulers", "routes"):
        assert done[key] == [], key
    assert done["folders"] == done["environment"] == {}
    assert list(done["web"]) == [OURS if order == "first" else "ComfyUI Diff2Flow"]


@pytest.mark.parametrize("order", ["first", "last"])
def test_no_module_of_ours_is_seen_by_others(orders, order):
    """Below the name that ComfyUI gives the pack, which is its path; what else is new is Python's own."""
    modules = of_ours(orders[order])["modules"]
    [package] = [name for name in modules if Path(name).name in (OURS, "ComfyUI Diff2Flow")]
    assert f"{package}.nodes.host" in modules and f"{package}.d2f_core" in modules
    foreign = {name.split(".")[0] for name in modules if name != package and not name.startswith(package + ".")}
    assert foreign <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("order", ["first", "last"])
def test_the_other_pack_loads_as_it_does_alone(orders, order):
    alone, beside = orders["alone"]["packs"][OTHER], orders[order]["packs"][OTHER]
    assert beside == alone
    assert alone["nodes"] == ["OtherNode"] and {"host", "inputs", "d2f_core"} <= set(alone["modules"])
    assert alone["routes"] == ["GET /other/hello"] and "other" in alone["samplers"]


@pytest.mark.parametrize("order", ["first", "last"])
def test_every_other_node_is_what_it_was(orders, order):
    alone, beside = orders["alone"]["nodes"], orders[order]["nodes"]
    assert set(beside) - set(alone) == set(of_ours(orders[order])["nodes"])
    assert [name for name, definition in alone.items() if beside[name] != definition] == []


def test_every_import_is_a_whole_one_and_loads_no_optional_library(probe, ours):
    """How long it takes is measured by `bench loading`."""
    runs = list(probe(*(ours(f"import {number}") for number in range(2)))["packs"].values())
    assert len({len(run["modules"]) for run in runs}) == 1 and len(runs) == 2
    assert not OPTIONAL & {name.split(".")[0] for run in runs for name in run["modules"]}


@pytest.fixture(scope="module")
def both(host_path, neighbour, tmp_path_factory):
    """A client of a real server with both packs; our folder has a name of the user's choice.

    One without a space: ComfyUI loads such a pack, but serves no help, template or script of it.
    """
    host, packs = Host(host_path, read_version(host_path)), {OTHER: neighbour, "ComfyUI_Diff2Flow": ROOT}
    with running(host, Path(sys.executable), tmp_path_factory.mktemp("both"), threads=1, packs=packs) as process:
        client = Client(ADDRESS, process.port, process.alive)
        client.log = process.log
        yield client


def test_on_a_server_the_other_pack_has_what_is_its_own(both):
    assert both.get("/other/hello") == NEIGHBOURS_WORDS
    assert "/extensions/other-pack/other.js" in both.get("/extensions")
    prompt = {"1": {"class_type": "OtherNode", "inputs": {"text": "hello"}}}
    assert both.run(prompt).outputs["1"]["text"] == ["hello", *NEIGHBOURS_WORDS]
    assert "other" in both.object_info("KSampler")["KSampler"]["input"]["required"]["sampler_name"][0]


def test_on_a_server_ours_works_under_any_name(both):
    info = both.object_info()
    ours = {name: definition for name, definition in info.items() if name.startswith("D2F")}
    assert {definition["python_module"] for definition in ours.values()} == {"custom_nodes.ComfyUI_Diff2Flow"}
    assert "01 Convert and sample" in both.get("/workflow_templates")["ComfyUI_Diff2Flow"]
    assert b"#" in both.request("/extensions/ComfyUI_Diff2Flow/docs/D2FConvert.md")
    prompt = {
        "1": {"class_type": "D2FDemoCheckpoint", "inputs": {}},
        "2": {"class_type": "D2FConvert", "inputs": {
            "model": ["1", 0], "start": "t_min", "shift": 1.0, "prediction": "auto"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a red sphere"}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 96, "height": 96, "batch_size": 1}},
        "5": {"class_type": "D2FKSampler", "inputs": {
            "model": ["2", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0],
            "seed": 1, "solver": "euler", "steps": 2, "cfg": 1.0, "denoise": 1.0, "grid": "uniform"}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "beside"}},
    }  # fmt: skip
    assert len(both.run(prompt).images()) == 1
    assert "IMPORT FAILED" not in both.log.read_text(encoding="utf-8", errors="replace")
