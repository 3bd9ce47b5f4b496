"""The files of the example graphs: sound, explained, and of nodes and widgets that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from devtools.forms import FORMS, SUFFIX, form_text
from devtools.prompts import FOLDER as PROMPTS
from devtools.prompts import Prompt, prompt_for

from .graphs import DEMOS, FILES, FOLDER, read

HOST, FRONTEND = "0.30.0", "1.47.12"  # that the files were saved with
MODEL_FILE = re.compile(r"\.(safetensors|sft|ckpt|pt|pth|bin|gguf|onnx)$")
PRIVATE = re.compile(r"/(home|root|Users|tmp|mnt)/|[A-Za-z]:\\\\|file://|localhost|[\w.]+@[\w.]+")
CONTROLS = ("fixed", "randomize", "increment", "decrement")  # what the page keeps behind a seed
FORM_KEYS = ("linearMode", "linearData")  # of a graph that is a form
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
TITLE = 30  # height of a node's title bar, above its position

every_workflow = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_their_names_read_as_a_path():
    """The page shows the names only, in the order of the folder."""
    names = [path.stem for path in FILES if not path.stem.endswith(SUFFIX)]
    assert 10 <= len(names) <= 12
    assert [int(name[:2]) for name in names] == list(range(1, len(names) + 1))
    assert all(int(name[:2]) <= len(names) for name in FORMS)
    assert all(re.fullmatch(r"\d\d [A-Z][A-Za-z ]{5,}", name) for name in names)


def test_they_lie_side_by_side_each_with_its_thumbnail():
    forms = [FOLDER / f"{name}{SUFFIX}.json" for name in FORMS]
    assert set(FOLDER.rglob("*.json")) == {*FILES, *forms}
    assert {path.stem for path in FOLDER.rglob("*.jpg")} == {path.stem for path in (*FILES, *forms)}


@every_workflow
def test_the_template_browser_gets_a_thumbnail(path: Path):
    with Image.open(path.with_suffix(".jpg")) as image:
        assert image.format == "JPEG"
        assert 300 <= image.width <= 800
        assert image.width == image.height


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_its_graph_with_fields_of_widgets_that_are_there(name: str):
    form = read(FOLDER / f"{name}{SUFFIX}.json")
    assert form == json.loads(form_text(name)), "run `python dev.py python -m devtools.forms`"
    nodes = {node["id"]: node for node in form["nodes"]}
    fields = form["extra"]["linearData"]["inputs"]
    assert len(fields) == 6
    for node, widget in fields:
        assert widget in [socket["name"] for socket in nodes[node]["inputs"] if socket.get("widget")]
    assert all(nodes[node]["type"] == "SaveImage" for node in form["extra"]["linearData"]["outputs"])


@every_workflow
def test_links_name_their_ends(path: Path):
    graph = read(path)
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"])
    for link, source, output, target, socket, kind in graph["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][socket]["link"] == link
        assert kind == nodes[source]["outputs"][output]["type"]
    used = [socket["link"] for node in graph["nodes"] for socket in node["inputs"] if socket["link"] is not None]
    assert sorted(used) == sorted(link[0] for link in graph["links"])


@every_workflow
def test_it_is_of_the_pinned_editor_and_keeps_nothing_private(path: Path):
    graph = read(path)
    assert graph["extra"]["frontendVersion"] == FRONTEND
    assert set(graph["extra"]) - {"reroutes", "linkExtensions", *FORM_KEYS} == {"ds", "frontendVersion"}
    assert set(FORM_KEYS) <= set(graph["extra"]) or not path.stem.endswith(SUFFIX)
    assert not PRIVATE.search(path.read_text(encoding="ascii"))


@every_workflow
def test_nodes_name_the_pack_they_come_from_and_its_version(path: Path, version: str):
    for node in all_nodes(read(path)):
        expected = ("comfy-core", HOST) if is_stock(node) else ("diff2flow-kit", version)
        if node["type"] != "MarkdownNote":
            assert (node["properties"]["cnr_id"], node["properties"]["ver"]) == expected


@every_workflow
def test_it_is_explained_and_its_parts_have_titles(path: Path, definitions: dict[str, Any]):
    graph = read(path)
    (note,) = (node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")
    assert note.startswith(f"# {path.stem[3:].removesuffix(SUFFIX)}\n") and len(note.split()) >= 80
    assert "### Try" in note
    assert all(group["title"] for group in graph["groups"])
    notes = " ".join(node["widgets_values"][0] for node in all_nodes(graph) if node["type"] == "MarkdownNote")
    for kind in {node["type"] for node in all_nodes(graph) if node["type"].startswith("D2F")}:
        assert definitions[kind]["display_name"].removesuffix(" (Diff2Flow)") in notes


def all_nodes(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a graph and of its subgraphs."""
    inner = [node for subgraph in subgraphs(graph) for node in subgraph["nodes"]]
    return graph["nodes"] + inner


def subgraphs(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return graph.get("definitions", {}).get("subgraphs", [])


def is_stock(node: dict[str, Any]) -> bool:
    """Neither one of ours nor a subgraph, whose type is an identifier with dashes."""
    return not node["type"].startswith("D2F") and "-" not in node["type"]


@every_workflow
def test_what_is_inside_of_a_subgraph_keeps_ids_of_its_own(path: Path):
    """The page renumbers inner nodes whose ids the graph has as well, and forgets what it shows of them outside."""
    graph = read(path)
    ids = [node["id"] for node in all_nodes(graph)]
    assert len(set(ids)) == len(ids)
    assert all(node["id"] > 100_000 for subgraph in subgraphs(graph) for node in subgraph["nodes"])


@every_workflow
def test_subgraphs_are_named_and_nothing_overlaps_in_them(path: Path):
    graph = read(path)
    titles = {node["title"] for node in graph["nodes"] if "-" in node["type"]}
    assert titles == {subgraph["name"] for subgraph in subgraphs(graph)}
    for subgraph in subgraphs(graph):
        ends = [tuple(subgraph[name]["bounding"]) for name in ("inputNode", "outputNode")]
        nodes = [(*node["pos"], *node["size"]) for node in subgraph["nodes"]]
        assert not list(overlaps([*ends, *((x, y - TITLE, width, height + TITLE) for x, y, width, height in nodes)]))


@every_workflow
def test_no_two_nodes_and_no_two_groups_overlap(path: Path):
    graph = read(path)
    nodes = [(*node["pos"], *node["size"]) for node in graph["nodes"]]
    boxes = [(x, y - TITLE, width, height + TITLE) for x, y, width, height in nodes]
    assert not list(overlaps(boxes))
    assert not list(overlaps([tuple(group["bounding"]) for group in graph["groups"]]))


def overlaps(boxes: list[tuple[float, ...]]) -> Iterator[tuple[Any, Any]]:
    for index, (x, y, width, height) in enumerate(boxes):
        for other in boxes[:index]:
            if x < other[0] + other[2] and other[0] < x + width and y < other[1] + other[3] and other[1] < y + height:
                yield boxes[index], other


@every_workflow
def test_the_editor_can_offer_the_download_of_every_file(path: Path):
    for node in read(path)["nodes"]:
        files = [value for value in node.get("widgets_values") or [] if MODEL_FILE.search(str(value))]
        hints = node["properties"].get("models", [])
        assert [hint["name"] for hint in hints] == (files if node["type"] != "MarkdownNote" else [])
        for hint in hints:
            assert hint["directory"] == "checkpoints"
            assert hint["url"].startswith("https://huggingface.co/")
            assert hint["url"].endswith("/" + hint["name"])


def test_the_large_checkpoints_are_found_by_that_rule():
    named = {path.stem for path in FILES if "huggingface.co" in path.read_text(encoding="ascii")}
    assert named == {path.stem for path in FILES if path not in DEMOS}


@pytest.mark.parametrize("path", sorted(PROMPTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_node_and_widget_exists(path: Path, definitions: dict[str, Any]):
    """As the page sends graphs and blueprints; inputs of a blueprint without a widget are linked from outside."""
    prompt = prompt_for(path.stem)
    for node_id, node in prompt.items():
        specs = expanded(definitions[node["class_type"]]["input"], node["inputs"])
        fed = {name for name, (spec, _) in specs.items() if node_id.startswith("0:") and not has_widget(spec)}
        required = {name for name, (_, needed) in specs.items() if needed} - fed
        assert required <= set(node["inputs"]) <= set(specs), f"{node['class_type']} (node {node_id})"
        for name, value in node["inputs"].items():
            check_value(f"{node['class_type']}.{name}", specs[name][0], value, prompt, definitions)


def test_every_graph_has_its_prompt():
    blueprints = {path.stem for path in (FOLDER.parent / "subgraphs").glob("*.json")}
    assert {path.stem for path in PROMPTS.glob("*.json")} == {path.stem for path in FILES} | blueprints


@every_workflow
def test_its_values_are_those_of_the_prompt(path: Path):
    """A graph that was changed by hand, without its prompt, or a widget that came between others and shifted them."""
    prompt = {key.rpartition(":")[2]: node for key, node in prompt_for(path.stem).items()}
    for node in all_nodes(read(path)):
        saved = [value for value in node.get("widgets_values") or [] if value not in CONTROLS]
        for name, value in prompt.get(str(node["id"]), {"inputs": {}})["inputs"].items():
            if not isinstance(value, list):
                assert value in saved, f"{node['type']} (node {node['id']}): {name}"


def expanded(groups: dict[str, Any], values: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, bool]]:
    """{input name: (definition, required)}, with the inputs that the chosen options of dynamic combos bring."""
    result: dict[str, tuple[Any, bool]] = {}
    for group in ("required", "optional"):
        for name, spec in (groups.get(group) or {}).items():
            result[prefix + name] = (spec, group == "required")
            for option in options_of(spec):
                if isinstance(option, dict) and option["key"] == values.get(prefix + name):
                    result.update(expanded(option["inputs"], values, f"{prefix}{name}."))
    return result


def options_of(spec: list[Any]) -> list[Any]:
    return spec[0] if isinstance(spec[0], list) else (spec[1].get("options") or [] if len(spec) > 1 else [])


def has_widget(spec: list[Any]) -> bool:
    """Whether the page draws a widget for an input of this definition."""
    return isinstance(spec[0], list) or spec[0] in WIDGETS


def check_value(where: str, spec: list[Any], value: Any, prompt: Prompt, definitions: dict[str, Any]) -> None:
    """A link brings the right type; a widget's value is one that the widget can have."""
    options = (spec[1] if len(spec) > 1 else None) or {}
    if isinstance(value, list):
        source = definitions[prompt[value[0]]["class_type"]]
        assert spec[0] == "*" or source["output"][value[1]] in spec[0].split(","), where
        return
    assert has_widget(spec), f"{where} is not linked"
    keys = [option["key"] if isinstance(option, dict) else option for option in options_of(spec)]
    if where not in ("CheckpointLoaderSimple.ckpt_name", "LoadImage.image") and keys:
        assert value in keys, where
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        assert options.get("min", value) <= value <= options.get("max", value), where
