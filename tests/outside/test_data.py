"""Where training items come from: data sets of the library, caches, image-target pairs, pairs of SDXL."""

import sys

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from d2f_data.reflow.pair_set import ReflowPairSet  # noqa: E402
from d2f_data.reflow.plan import ReflowPairPlan  # noqa: E402
from d2f_data.reflow.writer import ReflowPairWriter  # noqa: E402
from d2f_diffusers.pairs import main as make_pairs  # noqa: E402
from d2f_diffusers.train.__main__ import main  # noqa: E402
from d2f_diffusers.train.data.items import PairItems  # noqa: E402
from d2f_diffusers.train.data.set_conditions import from_set, to_set  # noqa: E402
from d2f_diffusers.train.network import PipelineNetwork  # noqa: E402

COLOURS = ("red", "green", "blue", "cyan", "white")
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def place(tmp_path_factory, parts, xl_parts):
    """A folder with tiny pipelines of SD and SDXL, pictures, and their targets."""
    place = tmp_path_factory.mktemp("data")
    scheduler = diffusers.DDIMScheduler(**SD)
    diffusers.StableDiffusionPipeline(**parts, scheduler=scheduler).save_pretrained(place / "model")
    diffusers.StableDiffusionXLPipeline(**xl_parts, scheduler=scheduler).save_pretrained(place / "xl")
    for name in ("photos", "targets"):
        (place / name).mkdir()
    for number, colour in enumerate(COLOURS):
        size = (96, 96) if number < 3 else (128, 64)
        Image.new("RGB", size, colour).save(place / "photos" / f"{number}.png")
        Image.new("RGB", size, "gray").save(place / "targets" / f"{number}.jpg")
        (place / "photos" / f"{number}.txt").write_text(f"a {colour} cube", encoding="utf-8")
    (place / "prompts.txt").write_text("a red cube\na green cube\n", encoding="utf-8")
    return place


def words(place, output, *arguments, model="model"):
    return [
        *("--pretrained_model_name_or_path", str(place / model), "--output_dir", str(output), "--max_train_steps", "2"),
        *("--resolution", "96", "--bucket_step", "32", "--rank", "2", "--targets", "attention", *arguments),
    ]  # fmt: skip


def state(folder):
    return load_file(folder / "checkpoint-2" / "state.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture(scope="module")
def library(place):
    """The pictures as a parquet file and as an imagefolder with a table, by the library datasets."""
    datasets = pytest.importorskip("datasets")
    names = [str(place / "photos" / f"{number}.png") for number in range(len(COLOURS))]
    captions = [f"a {colour} cube" for colour in COLOURS]
    rows = datasets.Dataset.from_dict({"picture": names, "words": [[one, "unused"] for one in captions]})
    rows.cast_column("picture", datasets.Image()).to_parquet(place / "set.parquet")
    (place / "imagefolder").mkdir()
    lines = [f"{number}.png,{caption}" for number, caption in enumerate(captions)]
    (place / "imagefolder" / "metadata.csv").write_text("\n".join(["file_name,text", *lines, ""]), encoding="utf-8")
    for number in range(len(COLOURS)):
        (place / "imagefolder" / f"{number}.png").write_bytes((place / "photos" / f"{number}.png").read_bytes())
    return place


def test_sets_of_the_library_are_the_folder_of_their_images(library, tmp_path, said):
    place, cache = library, ("--cache_dir", str(tmp_path / "cache"))
    assert main(words(place, tmp_path / "folder", "--train_data_dir", str(place / "photos"), *cache)) == 0
    parquet = ("--dataset_name", str(place / "set.parquet"), "--image_column", "picture", *cache)
    assert main(words(place, tmp_path / "parquet", *parquet, "--caption_column", "words")) == 0
    assert main(words(place, tmp_path / "images", "--dataset_name", str(place / "imagefolder"), *cache)) == 0
    wanted = state(tmp_path / "folder")
    assert same(state(tmp_path / "parquet"), wanted) and same(state(tmp_path / "images"), wanted)
    (one, _) = (tmp_path / "cache" / "sets").iterdir()
    assert (one / "00000002.png").read_bytes() == (place / "photos" / "2.png").read_bytes()
    text = said(words(place, tmp_path / "x", *parquet))
    assert "has no column 'text'; its columns are picture, words: name one with --caption_column" in text


def test_sets_that_cannot_be_loaded(place, tmp_path, said, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    nowhere = ("--dataset_name", str(tmp_path / "nowhere"))
    assert "cannot be loaded" in said(words(place, tmp_path / "x", *nowhere))
    monkeypatch.setitem(sys.modules, "datasets", None)
    text = said(words(place, tmp_path / "x", *nowhere))
    assert "needs the package datasets, which is not installed; run " in text and "-m pip install datasets" in text


def test_what_is_encoded_once_is_read_from_the_cache(place, tmp_path, monkeypatch):
    folder = ("--train_data_dir", str(place / "photos"), "--cache_dir", str(tmp_path / "cache"))
    assert main(words(place, tmp_path / "one", *folder)) == 0

    def refuse(self, *inputs):
        raise AssertionError("encoded again")

    monkeypatch.setattr(PipelineNetwork, "encode_images", refuse)
    monkeypatch.setattr(PipelineNetwork, "encode_caption", refuse)
    assert main(words(place, tmp_path / "two", *folder)) == 0
    assert same(state(tmp_path / "one"), state(tmp_path / "two"))


def test_encoders_are_on_the_device_only_while_they_are_needed(place, tmp_path, monkeypatch):
    """On a card, encoders that are not there fail, and those that stay take its memory."""
    moves = []
    monkeypatch.setattr(PipelineNetwork, "move_encoders", lambda self, device: moves.append(device))
    flags = ("--train_data_dir", str(place / "photos"), "--validation_prompt", "x", "--checkpointing_steps", "1")
    assert main(words(place, tmp_path / "run", *flags)) == 0
    device = torch.device("cpu")
    encoding, drawing = moves[:-5], moves[-5:]
    assert len(encoding) > len(COLOURS) and set(encoding) == {device}
    assert [type(one) for one in drawing] == [str, torch.device, str, torch.device, str]


@pytest.mark.parametrize("model", ["model", "xl"])
def test_image_conditions(place, tmp_path, model):
    """The widened network starts as the plain one: given the picture twice, it answers as the plain one does."""
    flags = ("--conditioning_data_dir", str(place / "photos"), "--train_data_dir", str(place / "targets"))
    assert main(words(place, tmp_path / "run", *flags, "--proportion_empty_prompts", "0.5", model=model)) == 0
    tensors = load_file(tmp_path / "run" / "checkpoint-2" / "pytorch_lora_weights.safetensors")
    name = "lora_unet_input_blocks_0_0" if model == "xl" else "lora_unet_conv_in"
    assert tensors[f"{name}.reshape_weight"].tolist() == [32, 8, 3, 3]
    plain, wide = (network(place, model, widened) for widened in (False, True))
    x, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5.0, 700.0])
    condition = plain.condition(plain.encode_caption("a red cube"), dict.fromkeys(SIZES, 96))
    condition = {name: value.repeat(2, *(1,) * (value.ndim - 1)) for name, value in condition.items()}
    twice = wide(x, time, {**condition, "c_concat": x})
    torch.testing.assert_close(twice, plain(x, time, condition), rtol=1e-4, atol=1e-5)


SIZES = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")


def network(place, model, widened):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(place / model)
    with torch.no_grad():
        return PipelineNetwork(pipeline, torch.device("cpu"), "auto", False, widened=widened)


def test_mistakes_get_a_sentence(place, tmp_path, said):
    out, photos, targets = tmp_path / "out", str(place / "photos"), str(place / "targets")
    pairs = ("--conditioning_data_dir", photos, "--train_data_dir", targets)
    assert "give one of --train_data_dir" in said(words(place, out))
    assert "give one of --train_data_dir" in said(words(place, out, "--train_data_dir", photos, "--pairs_dir", photos))
    assert "needs --train_data_dir" in said(words(place, out, "--conditioning_data_dir", photos, "--pairs_dir", photos))
    alone = ("--train_data_dir", photos, "--target_values", "depth")
    assert "needs --conditioning_data_dir" in said(words(place, out, *alone))
    assert "draws pictures without an image" in said(words(place, out, *pairs, "--validation_prompt", "x"))
    full = words(place, out, *pairs, "--train", "full")
    del full[full.index("--rank") : full.index("--rank") + 4]  # and --targets
    assert "do not go together" in said(full)
    wrong = ("--conditioning_data_dir", str(tmp_path / "none"), "--train_data_dir", targets)
    assert "is not a folder" in said(words(place, out, *wrong))
    (tmp_path / "one").mkdir()
    Image.new("RGB", (96, 96), "red").save(tmp_path / "one" / "9.png")
    wrong = ("--conditioning_data_dir", str(tmp_path / "one"), "--train_data_dir", targets)
    assert "must hold images of the same names" in said(words(place, out, *wrong))
    assert not out.exists()


def test_pairs_of_sdxl_are_made_and_trained_on(place, tmp_path):
    made = [
        *("--pretrained_model_name_or_path", str(place / "xl"), "--prompts", str(place / "prompts.txt")),
        *("--output_dir", str(tmp_path / "set"), "--count", "3", "--num_inference_steps", "2", "--width", "96"),
        *("--height", "64", "--batch_size", "2", "--guidance_scale", "3"),
    ]  # fmt: skip
    assert make_pairs(made) == 0
    pairs = ReflowPairSet(tmp_path / "set")
    assert pairs.settings["base_model"] == "SDXL" and pairs.settings["latent_space"].startswith("model space of SDXL")
    stored = pairs.conditions([0])[0]
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {
        "c_crossattn": (1, 24, 64),
        "y": (1, 32 + 6 * 256),
    }
    assert from_set(stored, "it")["sizes"].tolist() == [[64, 96, 0, 0, 64, 96]]
    flags = ("--pairs_dir", str(tmp_path / "set"), "--proportion_empty_prompts", "0.5")
    assert main(words(place, tmp_path / "run", *flags, model="xl")) == 0


def test_pairs_of_several_windows_bring_the_states_between(place, tmp_path):
    """A set of the node with two windows, without which the student would learn one straight path."""
    with torch.no_grad():
        plain = network(place, "model", False)
    given = {"base_model": plain.kind, "solver": "euler", "steps": 2, "cfg": 1.0, "base": "b"}
    plan = ReflowPairPlan((4, 8, 8), 3, 0, given, windows=2)
    condition = to_set(plain.condition(plain.encode_caption("a red cube")))
    with ReflowPairWriter(tmp_path / "set", plan, ["a red cube"], [condition]) as writer:
        states = torch.randn(3, 1, 4, 8, 8)
        writer.add([0, 1, 2], plan.noise([0, 1, 2]), states[:, 0], states)
    items = PairItems(plain, tmp_path / "set")
    batch = items.batch([2, 0], [False, True])
    assert torch.equal(batch.waypoints, states[[2, 0]]) and batch.windows == items.facts["windows"] == 2


def test_sizes_of_sdxl_are_stored_as_comfyui_stores_them(comfy):
    """``y`` of ComfyUI's own SDXL, for sizes over all of the range, and back."""
    from types import SimpleNamespace

    import comfy.model_base

    host = SimpleNamespace(embedder=comfy.model_base.SDXL.__init__.__globals__["Timestep"](256), noise_augmentor=None)
    pooled = torch.randn(1, 1280, generator=torch.Generator().manual_seed(0))
    for numbers in ([1024, 768, 0, 0, 1024, 768], [4096, 8192, 17, 333, 64, 20000], [0, 1, 2, 3, 4, 40000]):
        given = dict(zip(SIZES, numbers))
        wanted = comfy.model_base.SDXL.encode_adm(host, pooled_output=pooled, **given)
        ours = {"c_crossattn": torch.zeros(1, 77, 2048), "pooled": pooled, "sizes": torch.tensor([numbers]).float()}
        torch.testing.assert_close(to_set(ours)["y"], wanted, rtol=1e-3, atol=3e-3)
        back = from_set({"c_crossattn": ours["c_crossattn"], "y": wanted}, "it")
        assert back["sizes"].tolist() == [numbers] and torch.equal(back["pooled"], pooled)


def test_conditions_of_other_models_are_refused():
    with pytest.raises(ValueError, match="the set holds the conditioning c_crossattn, guidance"):
        from_set({"c_crossattn": torch.zeros(1, 7, 8), "guidance": torch.zeros(1)}, "the set")
    wrong = {"c_crossattn": torch.zeros(1, 7, 8), "y": torch.full((1, 2816), 0.4)}
    with pytest.raises(ValueError, match="the set holds the conditioning c_crossattn, y"):
        from_set(wrong, "the set")
