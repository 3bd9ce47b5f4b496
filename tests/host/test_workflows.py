"""The example graphs on a real server: sound files, nodes and widgets that exist, images that come out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageOps, ImageStat
from safetensors.torch import load_file

from devtools.client import Client, Prompt
from devtools.pictures import BACKGROUND, CAPTION, GAP, TILE
from devtools.workflow import has_widget, to_prompt, widget_count

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
FILES = sorted(FOLDER.glob("*.json"))
DEMOS = [path for path in FILES if path.stem.startswith("demo_")]
TASKS = ("text_to_image", "image_to_image", "inpainting")
HOST, FRONTEND = "0.30.0", "1.47.12"  # that the files were saved with
MODEL_FILE = re.compile(r"\.(safetensors|sft|ckpt|pt|pth|bin|gguf|onnx)$")
PRIVATE = re.compile(r"/(home|root|Users|tmp|mnt)/|[A-Za-z]:\\\\|file://|localhost|[\w.]+@[\w.]+")
TITLE = 30  # height of a node's title bar, above its position

every_workflow = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="ascii"))


@pytest.fixture(scope="session")
def definitions(server: Client) -> dict[str, Any]:
    return server.object_info()


# --- The files ------------------------------------------------------------------------------------


def test_every_model_has_every_task():
    names = {path.stem for path in FILES}
    tasks = {f"{model}_{task}" for model in ("demo", "sd15", "sd21_v", "sdxl") for task in TASKS}
    training = {"demo_train_lora", "sd15_train_lora_folder", "sdxl_train_lora_folder"}
    both = {f"{model}_{task}" for model in ("demo", "sd15") for task in ("reflow", "depth")}
    assert names == {*tasks, "demo_solvers", *training, *both}


def test_they_lie_side_by_side_each_with_its_thumbnail():
    assert sorted(FOLDER.rglob("*.json")) == FILES
    assert {path.stem for path in FOLDER.rglob("*.jpg")} == {path.stem for path in FILES}


@every_workflow
def test_the_template_browser_gets_a_thumbnail(path: Path):
    with Image.open(path.with_suffix(".jpg")) as image:
        assert image.format == "JPEG"
        assert 300 <= image.width <= 800
        assert image.width == image.height


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
def test_it_is_flat_saved_by_the_pinned_editor_and_keeps_nothing_private(path: Path):
    graph = read(path)
    assert "definitions" not in graph
    assert graph["extra"]["frontendVersion"] == FRONTEND
    assert set(graph["extra"]) == {"ds", "frontendVersion"}
    assert not PRIVATE.search(path.read_text(encoding="ascii"))


@every_workflow
def test_nodes_name_the_pack_they_come_from_and_its_version(path: Path, version: str):
    for node in read(path)["nodes"]:
        expected = ("diff2flow-kit", version) if node["type"].startswith("D2F") else ("comfy-core", HOST)
        if node["type"] != "MarkdownNote":
            assert (node["properties"]["cnr_id"], node["properties"]["ver"]) == expected


@every_workflow
def test_it_is_explained_and_its_parts_have_titles(path: Path, definitions: dict[str, Any]):
    graph = read(path)
    (note,) = (node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")
    assert note.startswith("# ") and len(note.split()) >= 150
    assert "### What you see" in note
    assert "### Try" in note
    assert all(group["title"] for group in graph["groups"])
    for kind in {node["type"] for node in graph["nodes"] if node["type"].startswith("D2F")}:
        assert definitions[kind]["display_name"].removesuffix(" (Diff2Flow)") in note


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


# --- Against the server's definitions -------------------------------------------------------------


@every_workflow
def test_every_node_and_widget_exists(path: Path, definitions: dict[str, Any]):
    prompt = to_prompt(read(path), definitions)
    for node_id, node in prompt.items():
        specs = expanded(definitions[node["class_type"]]["input"], node["inputs"])
        required = {name for name, (spec, needed) in specs.items() if needed}
        assert required <= set(node["inputs"]) <= set(specs), f"{node['class_type']} (node {node_id})"
        for name, value in node["inputs"].items():
            check_value(f"{node['class_type']}.{name}", specs[name][0], value, prompt, definitions)


@every_workflow
def test_every_node_has_as_many_values_as_it_has_widgets(path: Path, definitions: dict[str, Any]):
    """Values are stored by position, so that a widget put between others would shift them."""
    for node in read(path)["nodes"]:
        if node["type"] != "MarkdownNote":
            assert len(node.get("widgets_values") or []) == widget_count(node, definitions[node["type"]]), node["type"]


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


def check_value(where: str, spec: list[Any], value: Any, prompt: Prompt, definitions: dict[str, Any]) -> None:
    """A link brings the right type; a widget's value is one that the widget can have."""
    options = (spec[1] if len(spec) > 1 else None) or {}
    if isinstance(value, list):
        source = definitions[prompt[value[0]]["class_type"]]
        assert spec[0] == "*" or source["output"][value[1]] in spec[0].split(","), where
        return
    assert has_widget(spec[0], options), f"{where} is not linked"
    keys = [option["key"] if isinstance(option, dict) else option for option in options_of(spec)]
    if where not in ("CheckpointLoaderSimple.ckpt_name", "LoadImage.image") and keys:
        assert value in keys, where
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        assert options.get("min", value) <= value <= options.get("max", value), where


# --- Running them ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def ran(server: Client, definitions: dict[str, Any]) -> Callable[[Path], dict[str, list[Image.Image]]]:
    """`ran(path)` -> {file name prefix: images} of a demo graph, run once for all tests."""
    done: dict[Path, dict[str, list[Image.Image]]] = {}

    def run(path: Path) -> dict[str, list[Image.Image]]:
        if path not in done:
            done[path] = saved_images(server, to_prompt(read(path), definitions))
        return done[path]

    return run


def saved_images(server: Client, prompt: Prompt) -> dict[str, list[Image.Image]]:
    """Run a prompt; {file name prefix: images}."""
    outputs = server.run(prompt, seconds=300).outputs
    return {
        node["inputs"]["filename_prefix"]: [load(server, image) for image in outputs[node_id]["images"]]
        for node_id, node in prompt.items()
        if node["class_type"] == "SaveImage"
    }


def load(server: Client, image: dict[str, str]) -> Image.Image:
    return Image.open(server.base / "output" / image["subfolder"] / image["filename"]).convert("RGB")


def greatest_difference(a: Image.Image, b: Image.Image) -> int:
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


@pytest.mark.slow
@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_a_demo_makes_its_images(path: Path, ran: Any):
    images = {prefix: batch for prefix, batch in ran(path).items() if not prefix.endswith(("_loss", "_paths"))}
    assert len(images) >= 4
    for batch in images.values():
        assert len(batch) == (6 if path.stem == "demo_reflow" else 4)
        for image in batch:
            assert image.size == (96, 96)
            assert max(high - low for low, high in image.getextrema()) > 30


@pytest.mark.slow
@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_its_thumbnail_was_made_by_its_own_run(path: Path, ran: Any):
    """The first image of each of its first four branches; after a training on another machine they differ more."""
    trains = any(node["type"] == "D2FTrainLora" for node in read(path)["nodes"])
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        for place, (_, images) in enumerate(sorted(ran(path).items())[:4]):
            left, top = GAP + (place % 2) * (TILE + GAP), GAP + (place // 2) * (TILE + GAP)
            tile = thumbnail.convert("RGB").crop((left, top, left + TILE, top + TILE))
            image = ImageOps.pad(images[0], (TILE, TILE), Image.Resampling.BICUBIC, BACKGROUND)
            assert mean_difference(above_caption(tile), above_caption(image)) < (12 if trains else 4)


def above_caption(tile: Image.Image) -> Image.Image:
    """A quarter of the size, which JPEG leaves as it was."""
    return tile.crop((0, 0, TILE, TILE - CAPTION)).resize((TILE // 4, (TILE - CAPTION) // 4), Image.Resampling.BOX)


def mean_difference(a: Image.Image, b: Image.Image) -> float:
    means = ImageStat.Stat(ImageChops.difference(a, b)).mean
    return sum(means) / len(means)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["", "_img2img", "_inpaint"])
def test_stock_nodes_make_the_same_images_of_both_models(task: str, ran: Any):
    names = dict(zip(("", "_img2img", "_inpaint"), TASKS))
    images = ran(FOLDER / f"demo_{names[task]}.json")
    pairs = zip(images[f"diff2flow/demo{task}_1_stock"], images[f"diff2flow/demo{task}_2_converted"])
    assert all(greatest_difference(stock, converted) <= 1 for stock, converted in pairs)


@pytest.mark.slow
def test_the_one_node_and_its_parts_make_the_same_images(ran: Any):
    images = ran(FOLDER / "demo_text_to_image.json")
    pairs = zip(images["diff2flow/demo_3_ode"], images["diff2flow/demo_4_ksampler"])
    assert all(greatest_difference(parts, whole) <= 1 for parts, whole in pairs)


@pytest.mark.slow
def test_with_the_grid_of_a_stock_scheduler_the_one_node_agrees_too(server: Client, definitions: dict[str, Any]):
    prompt = to_prompt(read(FOLDER / "demo_image_to_image.json"), definitions)
    (sampler,) = (node for node in prompt.values() if node["class_type"] == "D2FKSampler")
    sampler["inputs"].update({"grid": "stock scheduler", "grid.scheduler": "simple"})
    images = saved_images(server, prompt)
    pairs = zip(images["diff2flow/demo_img2img_1_stock"], images["diff2flow/demo_img2img_3_ksampler"])
    assert all(greatest_difference(stock, ours) <= 1 for stock, ours in pairs)


# --- Training -------------------------------------------------------------------------------------


def read_colours(images: list[Image.Image]) -> list[str]:
    """The colours that the demo's reader sees."""
    from diff2flow_kit.demo.reader import read_attributes

    pixels = torch.stack([torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8) for image in images])
    found = read_attributes(pixels.view(len(images), *images[0].size[::-1], 3).float() / 255)
    return [words["color"] for words in found]


@pytest.mark.slow
def test_the_demo_learns_a_colour_and_forgets_none(server: Client, ran: Any):
    images = ran(FOLDER / "demo_train_lora.json")
    colours = {prefix.removeprefix("diff2flow/demo_train_"): read_colours(batch) for prefix, batch in images.items()}
    before, after = (colours[f"1_sphere_{when}"] + colours[f"2_cube_{when}"] for when in ("1_before", "2_after"))
    assert before.count("cyan") <= 1
    assert after.count("cyan") >= 7
    assert colours["3_known_1_before"].count("red") == colours["3_known_2_after"].count("red") == 4
    (plot,) = images["diff2flow/demo_train_loss"]
    assert plot.width > plot.height > 300
    assert list((server.base / "output" / "loras" / "diff2flow").glob("demo_200_steps_*.safetensors"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of six pictures in two sizes, with captions."""
    for i in range(6):
        Image.new("RGB", (96, 96) if i % 2 else (128, 96), (40 * i, 200, 90)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("a green cube", encoding="utf-8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_a_folder_is_trained_on(model: str, server: Client, definitions: dict[str, Any], pictures: Path):
    """The graph for a large checkpoint, run with the demo model in its place, for a few steps."""
    prompt = to_prompt(read(FOLDER / f"{model}_train_lora_folder.json"), definitions)
    small = {
        "D2FFolderDataset": {"folder": str(pictures), "resolution": 96, "bucket_step": 32},
        "D2FTrainLora": {"run_name": f"folder_{model}", "steps": 4, "warmup_steps": 0, "preview_every": 2},
        "EmptyLatentImage": {"width": 96, "height": 96},
        "KSampler": {"steps": 4},
    }
    for node in prompt.values():
        node["inputs"].update(small.get(node["class_type"], {}))
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type="D2FDemoCheckpoint", inputs={})
    images = saved_images(server, prompt)
    assert sorted(images) == [f"diff2flow/{model}_train_{name}" for name in ("1_before", "2_after", "loss")]
    saved = (server.base / "output" / "loras" / "diff2flow").glob(f"folder_{model}_step*.safetensors")
    assert [path.name for path in saved]


# --- Reflow ---------------------------------------------------------------------------------------


def distance(images: list[Image.Image], others: list[Image.Image]) -> float:
    """Root mean square difference of pixels, the median over the images: a short training misses a prompt at times."""
    a, b = (torch.stack([torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8) for i in each]).double()
            for each in (images, others))  # fmt: skip
    return float((a - b).square().mean(1).sqrt().median())


@pytest.mark.slow
def test_reflow_brings_few_steps_to_where_the_teacher_ends(server: Client, definitions: dict[str, Any]):
    """On more prompts than the graph shows: over six of them the distance depends on which six."""
    graph, count = read(FOLDER / "demo_reflow.json"), 24
    prompt = to_prompt(graph, definitions)
    (asked,) = (node for node in graph["nodes"] if node.get("title", "").startswith("New prompts"))
    prompt[str(asked["id"])]["inputs"]["count"] = count
    images = {prefix.removeprefix("diff2flow/demo_reflow_"): batch
              for prefix, batch in saved_images(server, prompt).items()}  # fmt: skip
    teacher = images["4_teacher"]
    assert len(teacher) == count
    for row, steps in enumerate((1, 2, 4), start=1):
        before, after = (images[f"{row}_{steps}step_{when}"] for when in ("1_before", "2_after"))
        assert len(before) == len(after) == count
        ratio = distance(after, teacher) / distance(before, teacher)
        print(f"{steps} steps: {ratio:.3f} of the distance")
        assert ratio < (1 if steps == 1 else 0.8)
    for plot in ("loss", "paths"):
        (picture,) = images[plot]
        assert picture.width > picture.height > 300
    assert (server.base / "output" / "diff2flow" / "pairs" / "demo" / "manifest.json").is_file()
    assert list((server.base / "output" / "loras" / "diff2flow").glob("demo_reflow_250_steps_*.safetensors"))


@pytest.mark.slow
def test_the_reflow_graph_for_a_large_checkpoint_runs(server: Client, definitions: dict[str, Any]):
    """With the demo model in the checkpoint's place, for a few pairs and steps."""
    prompt = to_prompt(read(FOLDER / "sd15_reflow.json"), definitions)
    small = {
        "D2FReflowPairs": {"count": 8, "width": 96, "height": 96, "steps": 3},
        "D2FTrainLora": {"steps": 4, "warmup_steps": 0, "preview_every": 2, "batch_size": 2, "accumulation": 2},
        "D2FTrajectory": {"width": 96, "height": 96, "reference_steps": 9},
        "EmptyLatentImage": {"width": 96, "height": 96},
    }
    for node in prompt.values():
        node["inputs"].update(small.get(node["class_type"], {}))
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type="D2FDemoCheckpoint", inputs={})
    images = saved_images(server, prompt)
    rows = [f"{row}_{steps}step_{when}" for row, steps in ((1, 1), (2, 2), (3, 4)) for when in ("1_before", "2_after")]
    names = sorted([*rows, "4_teacher", "loss", "paths"])
    assert sorted(images) == [f"diff2flow/sd15_reflow_{name}" for name in names]


# --- Depth ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_learns_to_see_depth(server: Client, definitions: dict[str, Any]):
    prompt = to_prompt(read(FOLDER / "demo_depth.json"), definitions)
    result = server.run(prompt)
    images = {image["filename"].rpartition("_0")[0]: load(server, image) for image in result.images()}
    assert {"demo_depth_1_image", "demo_depth_2_true"} < images.keys()
    scores = [text for made in result.outputs.values() for text in made.get("text", []) if "AbsRel" in text]
    means = [[float(value) for value in text.rpartition("mean")[2].split()] for text in scores]
    assert len(means) == 3  # of 1, 2 and 10 calls
    for absrel, delta1, *_ in means:
        assert absrel < 0.08 and delta1 > 0.95
    assert list((server.base / "output" / "loras" / "diff2flow").glob("demo_depth_160_steps_*.safetensors"))


@pytest.mark.slow
def test_the_depth_graph_for_a_large_checkpoint_runs(server: Client, definitions: dict[str, Any], tmp_path: Path):
    """With the demo model in the checkpoint's place, on a small folder of images and depth maps, for a few steps."""
    for name in ("images", "maps"):
        (tmp_path / name).mkdir()
    for i in range(4):
        Image.effect_noise((96, 96), 40 + i).convert("RGB").save(tmp_path / "images" / f"{i}.png")
        Image.linear_gradient("L").resize((96, 96)).convert("I").point(lambda v: v * 200 + 9).save(
            tmp_path / "maps" / f"{i}.tiff"
        )
    prompt = to_prompt(read(FOLDER / "sd15_depth.json"), definitions)
    small = {
        "D2FPairedFolder": {"images": str(tmp_path / "images"), "targets": str(tmp_path / "maps"), "resolution": 96},
        "D2FTrainLora": {"steps": 3, "warmup_steps": 0, "preview_every": 2, "batch_size": 2, "accumulation": 1},
        "D2FDepthFromImage": {"resolution": 96, "ensemble": 2},
        "LoadImage": {"image": server.upload_image(tmp_path / "images" / "0.png", "seen.png")},
    }
    for node in prompt.values():
        node["inputs"].update(small.get(node["class_type"], {}))
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type="D2FDemoCheckpoint", inputs={})
    images = saved_images(server, prompt)
    assert sorted(images) == [f"diff2flow/sd15_depth_{name}" for name in ("1", "2_raw", "loss")]


# --- Identity (b) of the design, over the API -----------------------------------------------------

ROWS = (999, 940, 870, 800, 700, 600, 500, 400, 300, 200, 100, 30, 0)


def sigma_ve() -> torch.Tensor:
    """Levels of Stable Diffusion's schedule at ROWS, and 0."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[list(ROWS)]
    return torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1, dtype=torch.float64)])


def sampling(text: str, levels: torch.Tensor, convert: bool, prefix: str) -> Prompt:
    """Stock Euler on the demo model at explicit levels; the latents are saved."""
    wires = {name: [name, 0] for name in ("positive", "negative", "sampler", "sigmas", "latent_image")}
    wires["model"] = ["convert" if convert else "load", 0]
    nodes = {
        "load": ("D2FDemoCheckpoint", {}),
        "convert": ("D2FConvert", {"model": ["load", 0], "start": "t_min", "shift": 1.0, "prediction": "auto"}),
        "positive": ("CLIPTextEncode", {"clip": ["load", 1], "text": text}),
        "negative": ("CLIPTextEncode", {"clip": ["load", 1], "text": ""}),
        "latent_image": ("EmptyLatentImage", {"width": 96, "height": 96, "batch_size": 2}),
        "sigmas": ("ManualSigmas", {"sigmas": ", ".join(f"{float(level):.9f}" for level in levels)}),
        "sampler": ("KSamplerSelect", {"sampler_name": "euler"}),
        "sample": ("SamplerCustom", wires | {"add_noise": True, "noise_seed": 42, "cfg": 3.0}),
        "save": ("SaveLatent", {"samples": ["sample", 0], "filename_prefix": prefix}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def latents(server: Client, prompt: Prompt) -> torch.Tensor:
    (saved,) = server.run(prompt, seconds=300).outputs["save"]["latents"]
    return load_file(server.base / "output" / saved["subfolder"] / saved["filename"])["latent_tensor"]


@pytest.mark.slow
def test_euler_at_the_same_levels_gives_the_same_latents_in_any_order(server: Client):
    """Unconverted at `sigma_ve = (1 - t) / t`, converted at `s = 1 - t`; each model always the same to the bit.

    The words are the same but for spaces, so that the server samples each time instead of remembering.
    """
    ve = sigma_ve()
    levels = {False: ve, True: ve / (1 + ve)}
    first: dict[bool, torch.Tensor] = {}
    for turn, convert in enumerate([False, True, False, True, True, False]):
        text = "a large red sphere on the left" + " " * turn
        found = latents(server, sampling(text, levels[convert], convert, f"latents/turn{turn}"))
        assert torch.equal(found, first.setdefault(convert, found)), f"turn {turn}"
    stock, converted = first[False], first[True]
    assert stock.std() > 0.1
    assert (stock - converted).abs().max() < 1e-4 * (stock.max() - stock.min())
