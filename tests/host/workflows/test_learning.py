"""The graphs that train, on a real server: the demo model learns, and those for large checkpoints run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from devtools.client import Client
from devtools.demo import node_titles
from devtools.prompts import Prompt, prompt_for

from .graphs import FOLDER, behind_shift, images_of, in_small, load, read, saved_images

pytestmark = pytest.mark.slow


def read_colours(images: list[Image.Image]) -> list[str]:
    """The colours that the demo's reader sees."""
    from diff2flow_kit.demo.reader import read_attributes

    pixels = torch.stack([torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8) for image in images])
    found = read_attributes(pixels.view(len(images), *images[0].size[::-1], 3).float() / 255)
    return [words["color"] for words in found]


def tile(column: Image.Image, row: int) -> Image.Image:
    """A picture of a contact sheet at its own size, out of the column that it stands in."""
    top = 20 + row * 284 + 24
    return column.crop((4, top, 260, top + 256)).resize((96, 96), Image.Resampling.LANCZOS)


@pytest.fixture
def new_files(server: Client) -> Callable[[str], list[str]]:
    """`new_files("loras/*")` -> names of the files in the output folder that this test has made."""

    def found(pattern: str) -> set[Path]:
        return set((server.base / "output").glob(pattern))

    before = found("**/*")
    return lambda pattern: sorted(path.name for path in found(pattern) - before)


def test_the_demo_learns_a_colour_and_forgets_none(server: Client, ran: Any):
    images = ran(FOLDER / "02 Train a LoRA.json")
    colours = {prefix.removeprefix("diff2flow/demo_train_"): read_colours(batch) for prefix, batch in images.items()}
    before, after = (colours[f"1_sphere_{when}"] + colours[f"2_cube_{when}"] for when in ("1_before", "2_after"))
    assert before.count("cyan") <= 1
    assert after.count("cyan") >= 7
    assert colours["3_known_1_before"].count("red") == colours["3_known_2_after"].count("red") == 4
    (plot,) = images["diff2flow/demo_train_loss"]
    assert plot.width > plot.height > 300
    (sheet,) = images["diff2flow/demo_train_samples"]
    first, *_, last = (sheet.crop((column * 264, 0, (column + 1) * 264, sheet.height)) for column in range(5))
    seen = [read_colours([tile(column, row) for row in range(3)]) for column in (first, last)]
    assert seen[1] == ["cyan", "cyan", "red"] and seen[0].count("cyan") <= 1
    assert (server.base / "output" / "loras" / "diff2flow" / "demo.safetensors").is_file()


def brightness(images: list[Image.Image]) -> float:
    """The mean of all pixels, in [0, 1]."""
    return float(np.mean([np.asarray(image) for image in images])) / 255


def test_the_demo_learns_true_black_and_white_and_forgets_no_colour(ran: Any):
    images = ran(FOLDER / "12 True black.json")
    shown = {prefix.removeprefix("diff2flow/demo_black_"): batch for prefix, batch in images.items()}
    assert brightness(shown["1_black_2_after"]) < 0.1 and brightness(shown["1_black_1_before"]) > 0.25
    assert brightness(shown["2_white_2_after"]) > 0.9 and brightness(shown["2_white_1_before"]) < 0.75
    before, after = (read_colours(shown[f"3_known_{when}"]) for when in ("1_before", "2_after"))
    assert before.count("red") == after.count("red") == 4


def test_the_demo_flow_checkpoint_is_recognised_sampled_and_trained(server: Client):
    """The whole graph: both reports, noise without ModelSamplingSD3, and a LoRA that has learned cyan."""
    prompt = prompt_for("09 Flow checkpoints")
    result = server.run(prompt)
    shown = sorted((key for key, node in prompt.items() if node["class_type"] == "PreviewAny"), key=int)
    wrong, right = (text for key in shown for text in result.outputs[key]["text"])
    assert "  flow: relative error" in wrong and "To do: put 'ModelSamplingSD3'" in wrong
    assert "  flow: relative error" in right and "Verdict: ComfyUI is right" in right
    images = {
        node["inputs"]["filename_prefix"].removeprefix("diff2flow/demo_flow_"): [
            load(server, image) for image in result.outputs[key]["images"]
        ]
        for key, node in prompt.items()
        if node["class_type"] == "SaveImage"
    }
    assert read_colours(images["2_behind_sd3"]).count("red") == 4
    assert read_colours(images["3_before"]).count("cyan") <= 1
    assert read_colours(images["4_after"]).count("cyan") >= 3


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of six pictures that the demo model might have made, with captions."""
    from diff2flow_kit.demo.captions import caption
    from diff2flow_kit.demo.render import render_batch
    from diff2flow_kit.demo.scenes import sample_scene

    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(6)]
    for i, (scene, image) in enumerate(zip(scenes, render_batch(scenes)[0], strict=True)):
        Image.fromarray((image.numpy() * 255).round().astype("uint8")).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(caption(scene, rng), encoding="utf-8")
    return tmp_path


def prompt_lines(prompt: Prompt) -> int:
    """How many sample prompts a graph has."""
    return sum(
        len(node["inputs"]["prompts"].splitlines())
        for node in prompt.values()
        if node["class_type"] == "D2FSamplePrompts"
    )


def verdict(outputs: dict[str, Any], prompt: Prompt) -> str:
    """What the text of Model Report comes to."""
    (report,) = (key for key, node in prompt.items() if node["class_type"] == "D2FModelReport")
    (shown,) = (key for key, node in prompt.items() if node["inputs"].get("source") == [report, 0])
    (text,) = outputs[shown]["text"]
    return text.rpartition("\n\n")[2]


@pytest.mark.parametrize("is_flow", [False, True], ids=["eps", "flow"])
def test_a_folder_is_trained_on(is_flow: bool, server: Client, pictures: Path, new_files: Callable[[str], list[str]]):
    """The graph for a large checkpoint, run for a few steps with the demo model in its place, or with the flow twin,
    loaded as eps, and ModelSamplingSD3 switched on."""
    run, name = f"folder_{is_flow}", "03 Train on your photos"
    prompt = prompt_for(name)
    small = {
        "D2FFolderDataset": {"folder": str(pictures), "resolution": 96, "bucket_step": 32},
        "D2FSamplePrompts": {"width": 96, "height": 96, "steps": 2},
        "D2FTrainLora": {"run_name": run, "steps": 4, "preview_every": 2},
        "EmptyLatentImage": {"width": 96, "height": 96},
        "KSampler": {"steps": 4},
    }
    prompt = in_small(behind_shift(prompt, read(FOLDER / f"{name}.json")) if is_flow else prompt, small)
    outputs = server.run(prompt, seconds=300).outputs
    images = images_of(server, prompt, outputs)
    names = ("1_before", "2_after", "loss", "samples")
    assert sorted(images) == [f"diff2flow/photos_{name}" for name in names]
    (sheet,) = images["diff2flow/photos_samples"]
    assert sheet.width == 3 * 264  # of the steps 0, 2 and 4
    assert new_files(f"loras/diff2flow/{run}*.safetensors")
    drawn = new_files(f"diff2flow/runs/{run}*/samples/step*.png")
    assert len(drawn) == 3 * prompt_lines(prompt)
    returns = "eps - x0 (flow matching)" if is_flow else "the noise (eps-prediction)"
    assert verdict(outputs, prompt).startswith(f"Verdict: ComfyUI is right, the network returns {returns}.")


def test_a_lora_is_used(server: Client, ran: Any):
    """With the demo model in the checkpoint's place, and the LoRA that the graph before has trained and saved."""
    ran(FOLDER / "02 Train a LoRA.json")
    prompt = prompt_for("04 Use your LoRA")
    small = {
        "D2FLoadLora": {"lora": "diff2flow/demo.safetensors"},
        "EmptyLatentImage": {"width": 96, "height": 96, "batch_size": 4},
        "KSampler": {"cfg": 3},
    }
    for node in prompt.values():
        if "sks" in str(node["inputs"].get("text")):
            node["inputs"]["text"] = "a large cyan sphere on the left, gray background"
    images = saved_images(server, in_small(prompt, small))
    seen = {name: read_colours(batch).count("cyan") for name, batch in images.items()}
    assert seen["diff2flow/use_lora_1_without"] <= 1
    assert seen["diff2flow/use_lora_2_with"] >= 3


def distance(images: list[Image.Image], others: list[Image.Image]) -> float:
    """Root mean square difference of pixels, the median over the images: a short training misses a prompt at times."""
    a, b = (torch.stack([torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8) for i in each]).double()
            for each in (images, others))  # fmt: skip
    return float((a - b).square().mean(1).sqrt().median())


def test_reflow_brings_few_steps_to_where_the_teacher_ends(server: Client, new_files: Callable[[str], list[str]]):
    """On more prompts than the graph shows: over six of them the distance depends on which six."""
    graph, count = read(FOLDER / "05 Few steps.json"), 24
    prompt = prompt_for("05 Few steps")
    for node in prompt.values():  # pairs of its own, which no other test has made
        node["inputs"].update({"name": "demo_learning"} if node["class_type"] == "D2FReflowPairs" else {})
    (asked,) = (key for key, title in node_titles(graph).items() if title.startswith("New prompts"))
    prompt[asked]["inputs"]["count"] = count
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
    assert new_files("diff2flow/pairs/demo_learning/manifest.json")
    assert len(new_files("loras/diff2flow/demo_reflow*.safetensors")) == 1


def test_the_reflow_graph_for_a_large_checkpoint_runs(server: Client):
    """With the demo model in the checkpoint's place, for a few pairs and steps."""
    prompt = prompt_for("06 Few steps with your checkpoint")
    small = {
        "D2FReflowPairs": {"count": 8, "width": 96, "height": 96, "steps": 3},
        "D2FTrainLora": {"steps": 4, "preview_every": 2, "batch_size": 2},
        "D2FTrajectory": {"width": 96, "height": 96, "reference_steps": 9},
        "EmptyLatentImage": {"width": 96, "height": 96},
    }
    images = saved_images(server, in_small(prompt, small))
    rows = [f"{row}_{steps}step_{when}" for row, steps in ((1, 1), (2, 2), (3, 4)) for when in ("1_before", "2_after")]
    names = sorted([*rows, "4_teacher", "loss", "paths"])
    assert sorted(images) == [f"diff2flow/few_steps_{name}" for name in names]


def test_the_demo_learns_to_see_depth(server: Client, new_files: Callable[[str], list[str]]):
    prompt = prompt_for("07 Image to depth")
    result = server.run(prompt)
    images = {image["filename"].rpartition("_0")[0]: load(server, image) for image in result.images()}
    assert {"demo_depth_1_image", "demo_depth_2_true"} < images.keys()
    scores = [text for made in result.outputs.values() for text in made.get("text", []) if "AbsRel" in text]
    means = [[float(value) for value in text.rpartition("mean")[2].split()] for text in scores]
    assert len(means) == 3  # of 1, 2 and 10 calls
    for absrel, delta1, *_ in means:
        assert absrel < 0.08 and delta1 > 0.95
    assert len(new_files("loras/diff2flow/demo_depth*.safetensors")) == 1


def test_the_depth_graph_for_a_large_checkpoint_runs(server: Client, tmp_path: Path):
    """With the demo model in the checkpoint's place, on a small folder of images and depth maps, for a few steps."""
    for name in ("images", "maps"):
        (tmp_path / name).mkdir()
    for i in range(4):
        Image.effect_noise((96, 96), 40 + i).convert("RGB").save(tmp_path / "images" / f"{i}.png")
        Image.linear_gradient("L").resize((96, 96)).convert("I").point(lambda v: v * 200 + 9).save(
            tmp_path / "maps" / f"{i}.tiff"
        )
    prompt = prompt_for("08 Train on image pairs")
    small = {
        "D2FPairedFolder": {"images": str(tmp_path / "images"), "targets": str(tmp_path / "maps"), "resolution": 96},
        "D2FTrainLora": {"steps": 3, "preview_every": 2, "batch_size": 2},
        "D2FDepthFromImage": {"resolution": 96, "ensemble": 2},
        "LoadImage": {"image": server.upload_image(tmp_path / "images" / "0.png", "seen.png")},
    }
    images = saved_images(server, in_small(prompt, small))
    assert sorted(images) == [f"diff2flow/image_pairs_{name}" for name in ("1", "2_raw", "loss")]
