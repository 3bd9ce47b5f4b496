"""The node and the script: one settings.json, one folder of pictures, one LoRA file."""

import importlib
import json
import shutil
from types import SimpleNamespace

import numpy
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
def part(comfy, pack, tmp_path, monkeypatch):
    """`part(name)` -> a module of the nodes, which write into a folder of the test and compute as diffusers does."""
    import comfy.ldm.modules.attention as attention
    import comfy.model_management
    import folder_paths

    # diffusers computes attention by PyTorch's own function; ComfyUI does on GPUs, or with a flag.
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    monkeypatch.setattr(comfy.model_management, "ENABLE_PYTORCH_ATTENTION", True)
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield lambda name: importlib.import_module(f"{pack.__name__}.{name}")
    folder_paths.set_output_directory(before)


@pytest.fixture
def trained(part, tmp_path):
    """`trained(widgets, model, latents, ...)` -> the folder of the node's run, and the LoRA file that it wrote."""

    def run(widgets, *inputs, **more):
        trainer = part("nodes.training.train_lora").D2FTrainLora
        trainer.hidden = SimpleNamespace(unique_id="1")
        values = {one.id: one.default for one in part("nodes.training.widgets").training_widgets()} | widgets
        module = part("nodes.training.options.trainer_options")
        more["options"] = [
            module.TrainerOptions({name: values.pop(name) for name in values.keys() & module.option_defaults().keys()})
        ]
        trainer.execute(*inputs, **more, **{name: [value] for name, value in values.items()})
        runs, files = tmp_path / "diff2flow" / "runs", tmp_path / "loras" / "diff2flow"
        return runs / widgets["run_name"], next(files.glob("*.safetensors"))

    return run


@pytest.fixture
def node(part, pictures, trained):
    """`node(**widgets)`: the node trains on the folder of pictures."""

    @torch.inference_mode()
    def run(**widgets):
        model, clip, vae = part("demo.networks").load_demo_checkpoint()
        dataset = part("nodes.datasets.folder_dataset").D2FFolderDataset
        given = {one.id: getattr(one, "default", None) for one in part("nodes.datasets.widgets").dataset_inputs()[2:]}
        given |= {"folder": str(pictures), "resolution": 96, "bucket_step": 32}
        latents, positive, negative, *_ = dataset.execute(clip, vae, **given).result
        return trained(widgets, [model], latents, positive, [negative])

    return run


@pytest.fixture
def depth_node(part, photos, depths, trained):
    """`depth_node(**widgets)`: the node trains on depth, conditioned on the pictures."""

    @torch.inference_mode()
    def run(**widgets):
        import nodes

        model, clip, vae = part("demo.networks").load_demo_checkpoint()
        raw = {"target_values": "raw", "target_scale": 1.0, "invalid_value": 0.0}
        folder = part("nodes.datasets.paired_folder").D2FPairedFolder
        images, targets, valid, *_ = folder.execute(str(photos), str(depths), 96, raw, "off", 0, 32).result
        target = part("nodes.image_to_image.depth_target").D2FDepthTarget
        latents, conditions = [], []
        for seen, depth, known in zip(images, targets, valid):
            picture, mask, _ = target.execute(depth, 1.0, 99.0, True, known).result
            (latent,) = nodes.VAEEncode().encode(vae, picture)
            latents += nodes.SetLatentNoiseMask().set_mask(latent, mask)
            conditions += nodes.VAEEncode().encode(vae, seen)
        (empty,) = nodes.CLIPTextEncode().encode(clip, "")
        return trained(widgets, [part("nodes.host").widen(model)], latents, [empty], [empty], condition=conditions)

    return run


@pytest.fixture(scope="module")
def photos(pictures, tmp_path_factory):
    """The pictures alone, without captions and masks."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(len(COLOURS)):
        shutil.copy(pictures / f"{number}.png", folder)
    return folder


@pytest.fixture(scope="module")
def depths(tmp_path_factory):
    """Depth of the pictures as .npy files, with a hole in one of them."""
    folder = tmp_path_factory.mktemp("depths")
    for number in range(len(COLOURS)):
        height, width = (96, 96) if number < 3 else (64, 128)
        depth = numpy.linspace(1, 3 + number, height * width, dtype=numpy.float32).reshape(height, width)
        depth[:20, :30] = 0 if number == 1 else depth[:20, :30]
        numpy.save(folder / f"{number}.npy", depth)
    return folder


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


def test_one_run_on_image_conditions_gives_the_same_lora(depth_node, model, photos, depths, tmp_path):
    """To rounding: diffusers' VAE takes pixels in [-1, 1] and brings them back to [0, 1], which costs the last bits."""
    run, theirs = depth_node(**WIDGETS)
    output = tmp_path / "outside"
    flags = ("--settings", str(run / "settings.json"), "--max_train_steps", "3", "--checkpointing_steps", "0")
    images = ("--conditioning_data_dir", str(photos), "--target_values", "depth")
    assert script(model, depths, output, *flags, *images) == 0
    ours, wanted = (opened(place / "state.safetensors")[0] for place in (output / "checkpoint-3", run))
    assert ours.keys() == wanted.keys()
    for name in wanted:
        if "/weights/" in name:
            torch.testing.assert_close(ours[name], wanted[name], rtol=1e-5, atol=1e-5)
    (tensors, metadata), (_, about) = opened(output / "twin_step000003.safetensors"), opened(theirs)
    assert "lora_unet_conv_in.reshape_weight" in tensors
    assert metadata["diff2flow.condition"] == "image" and metadata["diff2flow.start"] == "noise"
    assert metadata["diff2flow.base"] == about["diff2flow.base"]
    settings, original = (json.loads((place / "settings.json").read_text("utf-8")) for place in (output, run))
    assert without(settings, "data") == without(original, "data")


def differing(tensors, wanted):
    """Names of tensors that are not in both, or not the same bits."""
    return {name for name in tensors.keys() | wanted.keys() if not torch.equal(tensors[name], wanted[name])}


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


# Settings of the node for what is not done outside of ComfyUI.
NODE_ONLY = {"compile": False, "offload": False, "text_encoder_lr": 5e-5, "text_encoder_rank": 0}


def test_defaults_are_the_nodes(pack):
    training = f"{pack.__name__}.nodes.training"
    widgets = importlib.import_module(f"{training}.widgets").training_widgets()
    options = importlib.import_module(f"{training}.options.trainer_options").option_defaults()
    assert {**{one.id: one.default for one in widgets}, **options} == {**DEFAULTS, **NODE_ONLY}
    plan, _ = read(["--pretrained_model_name_or_path", "x", "--output_dir", "y", "--train_data_dir", "z"])
    assert vars(plan) == {**DEFAULTS, **NODE_ONLY}


def test_a_run_with_text_encoders_is_refused_by_name(tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({**DEFAULTS, "text_encoders": "ab12", "text_encoder_lr": 1e-5}), encoding="utf-8")
    given = ["--pretrained_model_name_or_path", "x", "--output_dir", "y", "--train_data_dir", "z"]
    with pytest.raises(ValueError, match=r"settings.json is of a run that trains text encoders, which only the node"):
        read([*given, "--settings", str(settings)])
