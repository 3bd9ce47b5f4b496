"""The node and the script: one settings.json, one folder of pictures, one LoRA file."""

import importlib
import json
from types import SimpleNamespace

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from PIL import Image, ImageDraw  # noqa: E402
from safetensors import safe_open  # noqa: E402

from d2f_diffusers.demo_model import export_demo  # noqa: E402
from d2f_diffusers.train.__main__ import main  # noqa: E402
from d2f_diffusers.train.flags import DEFAULTS, read  # noqa: E402

COLOURS = ["red", "green", "blue", "yellow", "purple"]
WIDGETS = {
    "run_name": "twin", "steps": 3, "rank": 3, "learning_rate": 1e-3, "batch_size": 2, "save_every": 0, "seed": 5,
    "preview_every": 0, "caption_dropout": 0.3, "accumulation": 2, "ema": 0.9, "warmup_steps": 1, "weight": "eps",
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of five pictures in two shapes, with captions and a mask."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(COLOURS):
        size = (96, 96) if number < 3 else (128, 64)
        picture = Image.new("RGB", size, "gray")
        ImageDraw.Draw(picture).ellipse((20, 10, 70, 60), fill=colour)
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a large {colour} sphere", encoding="utf-8")
    mask = Image.new("L", (96, 96), 0)
    ImageDraw.Draw(mask).rectangle((0, 0, 96, 50), fill=255)
    mask.save(folder / "1-masklabel.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return export_demo(tmp_path_factory.mktemp("demo") / "model")


@pytest.fixture
def node(comfy, pack, tmp_path, pictures, monkeypatch):
    """`node(**widgets)` -> the folder of the node's run, and the LoRA file that it wrote."""
    import comfy.ldm.modules.attention as attention
    import comfy.model_management
    import folder_paths

    # diffusers computes attention by PyTorch's own function; ComfyUI does on GPUs, or with a flag.
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    monkeypatch.setattr(comfy.model_management, "ENABLE_PYTORCH_ATTENTION", True)
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))

    def run(**widgets):
        part = lambda name: importlib.import_module(f"{pack.__name__}.nodes.{name}")  # noqa: E731
        with torch.inference_mode():
            model, clip, vae = importlib.import_module(f"{pack.__name__}.demo.networks").load_demo_checkpoint()
            dataset = part("datasets.folder_dataset").D2FFolderDataset
            given = {one.id: getattr(one, "default", None) for one in part("datasets.widgets").dataset_inputs()[2:]}
            given |= {"folder": str(pictures), "resolution": 96, "bucket_step": 32}
            latents, positive, negative, *_ = dataset.execute(clip, vae, **given).result
            trainer = part("training.train_lora").D2FTrainLora
            trainer.hidden = SimpleNamespace(unique_id="1")
            values = {one.id: one.default for one in part("training.widgets").training_widgets()} | widgets
            trainer.execute([model], latents, positive, [negative], **{name: [value] for name, value in values.items()})
        runs, files = tmp_path / "diff2flow" / "runs", tmp_path / "loras" / "diff2flow"
        return runs / widgets["run_name"], next(files.glob("*.safetensors"))

    yield run
    folder_paths.set_output_directory(before)


def opened(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


def script(model, pictures, output, *arguments):
    return main([
        *("--pretrained_model_name_or_path", str(model), "--train_data_dir", str(pictures)),
        *("--output_dir", str(output), "--resolution", "96", "--bucket_step", "32", *arguments),
    ])  # fmt: skip


@pytest.mark.parametrize(
    "widgets", [{}, {"targets": "attention", "dropout": 0.2, "optimizer": "adafactor"}], ids=["", "2"]
)
def test_one_run_gives_one_file(node, model, pictures, tmp_path, widgets):
    run, theirs = node(**WIDGETS, **widgets)
    output = tmp_path / "outside"
    steps = ("--max_train_steps", "3", "--checkpointing_steps", "0")
    assert script(model, pictures, output, "--settings", str(run / "settings.json"), *steps) == 0
    ours = output / "twin_step000003.safetensors"
    (tensors, metadata), (wanted, about) = opened(ours), opened(theirs)
    assert not differing(tensors, wanted)
    # The files hold float16; the states hold all of the run in float32.
    assert not differing(opened(output / "checkpoint-3" / "state.safetensors")[0], opened(run / "state.safetensors")[0])
    assert without(metadata, "modelspec.date") == without(about, "modelspec.date")
    settings, original = (json.loads((place / "settings.json").read_text("utf-8")) for place in (output, run))
    assert settings == original


def differing(tensors, wanted):
    """Names of tensors that are not in both, or not the same bits."""
    return {name for name in tensors.keys() | wanted.keys() if not torch.equal(tensors[name], wanted[name])}


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


def test_defaults_are_the_nodes(pack):
    training = f"{pack.__name__}.nodes.training"
    widgets = importlib.import_module(f"{training}.widgets").training_widgets()
    widgets.append(importlib.import_module(f"{training}.advanced_widgets").gamma_widget())
    assert {one.id: one.default for one in widgets} == DEFAULTS
    plan, _ = read(["--pretrained_model_name_or_path", "x", "--output_dir", "y", "--train_data_dir", "z"])
    assert vars(plan) == {**DEFAULTS, "compile": False}
