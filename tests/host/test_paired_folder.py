"""Paired Folder as a node: its lists, what it says of its folders, and the way from two folders to a LoRA."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

COLOR, RAW = {"target_values": "color"}, {"target_values": "raw", "target_scale": 0.5, "invalid_value": 0.0}
SIZES = {"a": (96, 96), "b": (192, 96), "c": (120, 120), "sub/d": (96, 96), "sub/e": (128, 64)}


@pytest.fixture(scope="module")
def paired(node):
    return node("D2FPairedFolder")


@pytest.fixture
def folders(tmp_path):
    """Pictures of one grey each, and distances of twice that grey with a hole in their upper left quarter."""
    for number, (name, (width, height)) in enumerate(SIZES.items(), 1):
        image, target = (tmp_path / kind / name for kind in ("photos", "depths"))
        for path in (image, target):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height), 10 * number).save(image.with_suffix(".png"))
        values = np.linspace(20 * number, 21 * number, width * height, dtype=np.float32).reshape(height, width)
        values[: height // 2, : width // 2] = 0
        np.save(target.with_suffix(".npy"), values)
    return tmp_path / "photos", tmp_path / "depths"


@pytest.fixture
def run(paired, folders):
    """`run(flip="both")` -> outputs by name."""

    def execute(**settings):
        images, targets = folders
        given = {"images": str(images), "targets": str(targets), "resolution": 96, "target_values": RAW}
        given |= {"flip": "off", "seed": 0, "bucket_step": 32, **settings}
        assert list(given) == [one.id for one in paired.define_schema().inputs]
        names = ["images", "targets", "valid", "names", "report"]
        return SimpleNamespace(**dict(zip(names, paired.execute(**given).args, strict=True)))

    return execute


def test_all_lists_are_in_the_same_order(run, paired):
    out = run()
    assert out.names == ["a", "c", "sub/d", "b", "sub/e"]
    shapes = [[tuple(part.shape) for part in parts] for parts in (out.images, out.targets, out.valid)]
    assert shapes[0] == shapes[1] == [(3, 96, 96, 3), (2, 64, 128, 3)]
    assert shapes[2] == [(3, 96, 96), (2, 64, 128)]
    greys = [1, 3, 4, 2, 5]
    rows = [row for parts in zip(out.images, out.targets, out.valid, strict=True) for row in zip(*parts, strict=True)]
    for number, (image, target, valid) in zip(greys, rows, strict=True):
        assert torch.allclose(image, torch.tensor(10 * number / 255))
        known = target[valid > 0]
        assert float(known.min()) >= 10 * number and float(known.max()) <= 10.5 * number
        assert float(valid.mean()) == pytest.approx(0.75, abs=0.02) and not bool(target[valid == 0].any())
    assert "5 pairs" in out.report and "96x96: 3 pairs" in out.report and "75.0% of the targets' pixels" in out.report
    assert [one.is_output_list for one in paired.define_schema().outputs] == [True] * 4 + [False]


def test_colors(run, folders):
    for path in folders[1].rglob("*.npy"):
        path.unlink()
        Image.new("RGB", (96, 96), (255, 0, 51)).save(path.with_suffix(".png"))
    out = run(target_values=COLOR, flip="both")
    assert out.names == ["a", "a mirrored", "c", "c mirrored", "sub/d", "sub/d mirrored"]
    assert torch.allclose(out.targets[0], torch.tensor([1, 0, 0.2])) and bool((out.valid[0] == 1).all())
    assert "left out (2)" in out.report and "b: the target is 96 x 96, but the image is" in out.report


def test_folders_may_lie_in_the_input_folder(run, folders, comfy, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(folders[0].parent))
    assert len(run(images="photos", targets="depths").names) == 5
    with pytest.raises(ValueError, match=r"targets 'depth' is not a folder.*'depths'"):
        run(images="photos", targets="depth")
    with pytest.raises(ValueError, match="are the same folder"):
        run(images="photos", targets="photos")


def test_nothing_to_train_on_is_an_error_that_names_the_files(run, folders):
    with pytest.raises(ValueError, match=r"(?s)no pairs to train on in .*photos and .*image a\.png: no file a\.\* in"):
        run(target_values=COLOR)


def test_it_is_read_again_when_a_file_of_either_folder_changes(paired, folders):
    images, targets = map(str, folders)
    states = {paired.fingerprint_inputs(images=images, targets=targets)}
    assert paired.fingerprint_inputs(images=images, targets=targets, flip="both") in states
    for path in (folders[0] / "a.png", folders[1] / "a.npy"):
        os.utime(path, ns=(1, 1))
        states.add(paired.fingerprint_inputs(images=images, targets=targets))
    assert len(states) == 3


def test_cancelling_stops_between_two_files(run, monkeypatch):
    import comfy.model_management as management

    from diff2flow_kit.d2f_data.image_sets import target_pair_tensors as paired_tensors

    read, calls = paired_tensors.read_image, []

    def interrupted(path):
        calls.append(path)
        management.interrupt_current_processing(True)
        return read(path)

    monkeypatch.setattr(paired_tensors, "read_image", interrupted)
    with pytest.raises(management.InterruptProcessingException):
        run()
    assert len(calls) == 1


# Through a server


def node_of(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def training_graph(folders, **trainer):
    """Two folders to a LoRA: stock nodes in between take the lists apart."""
    images, targets = map(str, folders)
    raw = {"target_values": "raw", "target_values.target_scale": 0.5, "target_values.invalid_value": 0.0}
    return {
        "demo": node_of("D2FDemoCheckpoint"),
        "wide": node_of("D2FImageCondition", model=["demo", 0]),
        "text": node_of("CLIPTextEncode", clip=["demo", 1], text=""),
        "pairs": node_of(
            "D2FPairedFolder", images=images, targets=targets, resolution=96, flip="both", seed=0, bucket_step=32, **raw
        ),
        "seen": node_of("VAEEncode", pixels=["pairs", 0], vae=["demo", 2]),
        "depth": node_of(
            "D2FDepthTarget",
            depth=["pairs", 1],
            low_percentile=1.0,
            high_percentile=99.0,
            clip=True,
            valid=["pairs", 2],
        ),
        "painted": node_of("VAEEncode", pixels=["depth", 0], vae=["demo", 2]),
        "masked": node_of("SetLatentNoiseMask", samples=["painted", 0], mask=["pairs", 2]),
        "train": node_of(
            "D2FTrainLora",
            model=["wide", 0],
            latents=["masked", 0],
            positive=["text", 0],
            condition=["seen", 0],
            **trainer,
        ),
        "steps": node_of("PreviewAny", source=["train", 2]),
        "report": node_of("PreviewAny", source=["pairs", 4]),
    }


@pytest.fixture
def widgets(part):
    """The trainer's widgets, for a short run."""
    given = {widget.id: widget.default for widget in part("training.widgets").training_widgets()}
    return {**given, "run_name": "paired", "steps": 4, "rank": 2, "batch_size": 3, "preview_every": 2}


@pytest.mark.slow
def test_two_folders_become_a_lora(server, folders, widgets):
    from diff2flow_kit.d2f_data.files.lora_file import load_lora

    outputs = server.run(training_graph(folders, **widgets), seconds=300).outputs
    assert outputs["steps"]["text"] == ["4"] and "10 pairs" in outputs["report"]["text"][0]
    (path,) = (server.base / "output" / "loras" / "diff2flow").glob("paired.safetensors")
    facts = load_lora(path).facts
    assert facts.condition == "image" and facts.start == "noise" and facts.training["items"] == 10


@pytest.mark.slow
def test_a_condition_of_other_items_is_named_in_the_graph(server, folders, widgets):
    from devtools.client import PromptError

    prompt = training_graph(folders, **widgets)
    prompt["one"] = node_of("LatentFromBatch", samples=["seen", 0], batch_index=0, length=1)
    prompt["train"]["inputs"]["condition"] = ["one", 0]
    with pytest.raises(PromptError, match=r"'condition' has latents of the shapes \(1, 4, 12, 12\), \(1, 4, 8, 16\)"):
        server.run(prompt, seconds=300)
