"""The subgraph blueprints on a real server: served, sound, and each of them run with the demo model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from devtools.client import Client
from devtools.prompts import Prompt, prompt_for

from .graphs import read, saved_images

FOLDER = Path(__file__).resolve().parents[3] / "subgraphs"
FILES = sorted(FOLDER.glob("*.json"))
SAMPLE, TRAIN, REFLOW, DEPTH = (
    f"{name} (Diff2Flow)" for name in ("Convert and Sample", "Train LoRA from Folder", "Reflow", "Train Depth")
)
INPUT_NODE, OUTPUT_NODE = -10, -20
TITLE = 30  # height of a node's title bar, above its position

every_blueprint = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def parts(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The node of a blueprint, and the subgraph that it is an instance of."""
    graph = read(path)
    (node,), (subgraph,) = graph["nodes"], graph["definitions"]["subgraphs"]
    return node, subgraph


# --- The files ------------------------------------------------------------------------------------


def test_they_are_served_under_the_name_of_the_pack(server: Client):
    served = server.get("/global_subgraphs")
    ours = {key: entry for key, entry in served.items() if entry["info"]["node_pack"] == "custom_nodes.diff2flow-kit"}
    assert sorted(entry["name"] for entry in ours.values()) == sorted([SAMPLE, TRAIN, REFLOW, DEPTH])
    for key, entry in ours.items():
        text = server.get(f"/global_subgraphs/{key}")["data"]
        assert text == (FOLDER / f"{entry['name']}.json").read_text(encoding="ascii")


@every_blueprint
def test_it_is_one_node_with_a_name_a_description_and_words_to_find_it_by(path: Path):
    node, subgraph = parts(path)
    extra = read(path)["extra"]
    assert node["type"] == subgraph["id"]
    assert path.stem == node["title"] == subgraph["name"]
    assert subgraph["category"] == "Diff2Flow"
    assert subgraph["description"] == extra["BlueprintDescription"]
    assert len(subgraph["description"]) > 80
    assert len(extra["BlueprintSearchAliases"]) >= 3
    assert read(path)["links"] == [] and len(read(path)["definitions"]["subgraphs"]) == 1


@every_blueprint
def test_a_note_inside_names_every_node_of_ours_and_every_widget_outside(path: Path, definitions: dict[str, Any]):
    node, subgraph = parts(path)
    (note,) = (inner["widgets_values"][0] for inner in subgraph["nodes"] if inner["type"] == "MarkdownNote")
    for inner in subgraph["nodes"]:
        if inner["type"].startswith("D2F"):
            assert definitions[inner["type"]]["display_name"].removesuffix(" (Diff2Flow)") in note
    for socket in node["inputs"]:
        assert not socket.get("widget") or f"**{socket['name']}**" in note


@every_blueprint
def test_every_node_says_where_it_comes_from_and_in_which_version(path: Path, version: str):
    node, subgraph = parts(path)
    for one in (node, *subgraph["nodes"]):
        if one["type"] != "MarkdownNote":
            ours = one is node or one["type"].startswith("D2F")
            expected = ("diff2flow-kit", version) if ours else ("comfy-core", "0.30.0")
            assert (one["properties"]["cnr_id"], one["properties"]["ver"]) == expected


@every_blueprint
def test_the_picture_of_the_trainer_shows_outside(path: Path):
    node, subgraph = parts(path)
    trainers = [str(inner["id"]) for inner in subgraph["nodes"] if inner["type"] == "D2FTrainLora"]
    shown = {(one["sourceNodeId"], one["sourcePreviewName"]) for one in node["properties"]["previewExposures"]}
    assert shown == {(trainer, "$$canvas-image-preview") for trainer in trainers}


@every_blueprint
def test_links_name_their_ends(path: Path):
    _, subgraph = parts(path)
    nodes = {inner["id"]: inner for inner in subgraph["nodes"]}
    assert len(nodes) == len(subgraph["nodes"])
    ids = [link["id"] for link in subgraph["links"]]
    assert len(ids) == len(set(ids))
    for link in subgraph["links"]:
        if link["origin_id"] == INPUT_NODE:
            source = subgraph["inputs"][link["origin_slot"]]["linkIds"]
        else:
            source = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        if link["target_id"] == OUTPUT_NODE:
            target = subgraph["outputs"][link["target_slot"]]["linkIds"]
        else:
            target = [nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"]]
        assert link["id"] in source and link["id"] in target
    assert all(slot["linkIds"] for slot in (*subgraph["inputs"], *subgraph["outputs"]))


@every_blueprint
def test_no_two_nodes_overlap(path: Path):
    _, subgraph = parts(path)
    ends = [subgraph[name]["bounding"] for name in ("inputNode", "outputNode")]
    nodes = [(*inner["pos"], *inner["size"]) for inner in subgraph["nodes"]]
    boxes = [*ends, *((x, y - TITLE, width, height + TITLE) for x, y, width, height in nodes)]
    for index, (x, y, width, height) in enumerate(boxes):
        for a, b, c, d in boxes[:index]:
            assert x >= a + c or a >= x + width or y >= b + d or b >= y + height


def targets(subgraph: dict[str, Any], name: str) -> list[tuple[dict[str, Any], str]]:
    """(node inside, name of its input) for everything that an input of a blueprint feeds."""
    nodes = {inner["id"]: inner for inner in subgraph["nodes"]}
    (slot,) = (one for one in subgraph["inputs"] if one["name"] == name)
    fed = [link for link in subgraph["links"] if link["id"] in slot["linkIds"]]
    inner = [(nodes[link["target_id"]], link["target_slot"]) for link in fed]
    return [(node, node["inputs"][number]["name"]) for node, number in inner]


def saved_values(node: dict[str, Any]) -> dict[str, Any]:
    """{widget: value} of a node as saved: in the order of its inputs, a word about the seed behind every seed."""
    values, found = iter(node["widgets_values"]), {}
    for socket in node["inputs"]:
        if socket.get("widget"):
            found[socket["name"]] = next(values, None)
            if socket["name"] in ("seed", "noise_seed"):
                next(values, None)
    return found


@every_blueprint
def test_the_values_outside_are_those_inside_and_those_of_the_prompt(path: Path):
    """Older editors read the ones, newer ones the others."""
    node, subgraph = parts(path)
    outside = [socket["name"] for socket in node["inputs"] if socket.get("widget")]
    prompt = prompt_for(path.stem)
    assert outside
    for name, value in zip(outside, node["widgets_values"], strict=True):
        for inner, widget in targets(subgraph, name):
            assert saved_values(inner)[widget] == value, name
            assert prompt[key_of(subgraph, inner)]["inputs"][widget] == value, name


def key_of(subgraph: dict[str, Any], inner: dict[str, Any]) -> str:
    """The name of a node inside in the prompt of its blueprint, which leaves the note out."""
    ids = sorted(one["id"] for one in subgraph["nodes"] if one["type"] != "MarkdownNote")
    return f"0:{ids.index(inner['id'])}"


# --- Running them ---------------------------------------------------------------------------------


class Wiring:
    """A prompt around a blueprint: `add(type, {widget: value}, input=(node, output))` -> the node's name."""

    def __init__(self, name: str, values: dict[str, Any]) -> None:
        self.prompt: Prompt = prompt_for(name)
        _, self.subgraph = parts(FOLDER / f"{name}.json")
        self.feed(**values)

    def add(self, kind: str, values: dict[str, Any] | None = None, **feeds: tuple[str, int]) -> str:
        name = str(100 + len(self.prompt))
        inputs = {**(values or {}), **{key: list(source) for key, source in feeds.items()}}
        self.prompt[name] = {"class_type": kind, "inputs": inputs}
        return name

    def feed(self, **feeds: Any) -> None:
        """Link inputs of the blueprint, (node, output), or set its widgets."""
        for name, value in feeds.items():
            for inner, socket in targets(self.subgraph, name):
                own = self.prompt[key_of(self.subgraph, inner)]["inputs"]
                own[socket] = list(value) if isinstance(value, tuple) else value

    def out(self, name: str) -> tuple[str, int]:
        (slot,) = (one for one in self.subgraph["outputs"] if one["name"] == name)
        (link,) = (one for one in self.subgraph["links"] if one["id"] in slot["linkIds"])
        nodes = {inner["id"]: inner for inner in self.subgraph["nodes"]}
        return key_of(self.subgraph, nodes[link["origin_id"]]), link["origin_slot"]


def demo_model(wiring: Wiring) -> dict[str, tuple[str, int]]:
    checkpoint = wiring.add("D2FDemoCheckpoint")
    return {name: (checkpoint, output) for output, name in enumerate(("model", "clip", "vae"))}


def greatest_difference(images: list[Image.Image], others: list[Image.Image]) -> int:
    assert len(images) == len(others)
    pairs = zip(images, others)
    return max(high for one, other in pairs for _, high in ImageChops.difference(one, other).getextrema())


def sampled(wiring: Wiring, model: tuple[str, int], demo: dict[str, tuple[str, int]], cfg: float, steps: int) -> None:
    """Pictures that a model of a blueprint makes, with the one node."""
    text = wiring.add("CLIPTextEncode", {"text": "a large red sphere on the left"}, clip=demo["clip"])
    size = wiring.add("EmptyLatentImage", {"width": 96, "height": 96, "batch_size": 2})
    widgets = {"seed": 7, "steps": steps, "cfg": cfg, "solver": "euler", "grid": "uniform", "denoise": 1.0}
    latent = wiring.add(
        "D2FKSampler", widgets, model=model, positive=(text, 0), negative=(text, 0), latent_image=(size, 0),
    )  # fmt: skip
    saved(wiring, (latent, 0), demo, "images")


def saved(wiring: Wiring, latent: tuple[str, int], demo: dict[str, tuple[str, int]], name: str) -> None:
    decoded = wiring.add("VAEDecode", samples=latent, vae=demo["vae"])
    wiring.add("SaveImage", {"filename_prefix": f"blueprints/{name}"}, images=(decoded, 0))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun", "dopri5"])
def test_convert_and_sample_makes_the_images_of_the_one_node(solver: str, server: Client):
    wiring = Wiring(SAMPLE, {"steps": 6, "cfg": 3.0, "seed": 5, "solver": solver, "denoise": 0.9})
    demo = demo_model(wiring)
    texts = [wiring.add("CLIPTextEncode", {"text": text}, clip=demo["clip"]) for text in ("a small blue cube", "")]
    feeds = {"model": demo["model"], "positive": (texts[0], 0), "negative": (texts[1], 0)}
    feeds["latent_image"] = (wiring.add("EmptyLatentImage", {"width": 96, "height": 96, "batch_size": 2}), 0)
    wiring.feed(**feeds)
    saved(wiring, wiring.out("latent"), demo, "parts")
    tolerances = {"solver.rtol": 1e-3, "solver.atol": 1e-3, "solver.max_nfe": 500} if solver == "dopri5" else {}
    widgets = {"seed": 5, "steps": 6, "cfg": 3.0, "solver": solver, "grid": "uniform", "denoise": 0.9, **tolerances}
    whole = wiring.add("D2FKSampler", widgets, **feeds)
    saved(wiring, (whole, 0), demo, "whole")
    images = saved_images(server, wiring.prompt)
    assert len(images["blueprints/parts"]) == 2
    assert greatest_difference(images["blueprints/parts"], images["blueprints/whole"]) <= 1
    assert max(high - low for low, high in images["blueprints/parts"][0].getextrema()) > 30


def training(name: str, values: dict[str, Any]) -> tuple[Wiring, dict[str, tuple[str, int]]]:
    """A training blueprint at the demo model, with its picture and its report, for a few steps."""
    wiring = Wiring(name, {"steps": 4, "learning_rate": 1e-3, "batch_size": 2, "rank": 4, **values})
    demo = demo_model(wiring)
    wiring.feed(**demo)
    wiring.add("SaveImage", {"filename_prefix": "blueprints/loss"}, images=wiring.out("loss_plot"))
    wiring.add("PreviewAny", source=wiring.out("report"))
    return wiring, demo


def check_training(server: Client, name: str, values: dict[str, Any], cfg: float) -> None:
    """Run it to its end: a plot, a file that has the name, and a model that makes pictures."""
    wiring, demo = training(name, values)
    sampled(wiring, wiring.out("model"), demo, cfg, 2)
    images = saved_images(server, wiring.prompt)
    assert [image.size for image in images["blueprints/images"]] == [(96, 96)] * 2
    check_files(server, images, values["name"])


def check_files(server: Client, images: dict[str, list[Image.Image]], name: str) -> None:
    (plot,) = images["blueprints/loss"]
    assert plot.width > plot.height > 300
    folder = server.base / "output" / "loras" / "diff2flow"
    assert [path.name for path in folder.glob(f"{name}*.safetensors")] == [f"{name}.safetensors"]
    assert (server.base / "output" / "diff2flow" / "runs" / name).is_dir()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of four pictures with captions."""
    for i in range(4):
        Image.new("RGB", (128, 128), (60 * i, 200, 90)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("a green cube", encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_folder_becomes_a_lora(server: Client, pictures: Path):
    values = {"folder": str(pictures), "resolution": 128, "prefix": "sks", "name": "blueprint_lora"}
    check_training(server, TRAIN, values, 3.0)


@pytest.mark.slow
def test_a_model_is_reflowed(server: Client):
    values = {"prompts": "a red sphere\na blue cube", "count": 6, "width": 96, "height": 96, "pair_steps": 3}
    check_training(server, REFLOW, {**values, "pair_cfg": 3.0, "name": "blueprint_reflow"}, 1.0)
    assert (server.base / "output" / "diff2flow" / "pairs" / "blueprint_reflow" / "manifest.json").is_file()


@pytest.mark.slow
def test_a_model_learns_depth(server: Client, tmp_path: Path):
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    for i in range(4):
        Image.effect_noise((128, 128), 40 + i).convert("RGB").save(tmp_path / "images" / f"{i}.png")
        ramp = Image.linear_gradient("L").resize((128, 128)).convert("I").point(lambda v: v * 200 + 9)
        ramp.save(tmp_path / "maps" / f"{i}.tiff")
    values = {"images": str(tmp_path / "images"), "depths": str(tmp_path / "maps"), "resolution": 128}
    wiring, demo = training(DEPTH, {**values, "name": "blueprint_depth"})
    feeds = {"model": wiring.out("model"), "vae": demo["vae"]}
    picture = server.upload_image(tmp_path / "images" / "0.png", "blueprint.png")
    feeds["image"] = (wiring.add("LoadImage", {"image": picture}), 0)
    feeds["positive"] = (wiring.add("CLIPTextEncode", {"text": ""}, clip=demo["clip"]), 0)
    widgets = {"steps": 1, "seed": 7, "ensemble": 1, "resolution": 128, "colors": "spectral"}
    depth = wiring.add("D2FDepthFromImage", widgets, **feeds)
    wiring.add("SaveImage", {"filename_prefix": "blueprints/depth"}, images=(depth, 0))
    images = saved_images(server, wiring.prompt)
    assert [image.size for image in images["blueprints/depth"]] == [(128, 128)]
    check_files(server, images, "blueprint_depth")
