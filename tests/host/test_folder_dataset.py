"""Training Set from Folder on the demo checkpoint's VAE and CLIP."""

import asyncio
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

SCENES = {
    "a.png": ((96, 96), "red", "a red sphere"),
    "b.png": ((192, 96), "green", "a green cube"),
    "c.jpg": ((120, 120), "blue", "a blue sphere"),
    "sub/d.png": ((96, 96), "yellow", "a yellow cube"),
}
DEFAULTS = {
    "resolution": 96,
    "captions": "auto",
    "caption": "",
    "prefix": "",
    "repeats": 1,
    "variants": 1,
    "flip": False,
    "crop": 0.0,
    "colour": 0.0,
    "odd_files": "stop",
    "upscale": "allow",
    "seed": 0,
    "bucket_step": 32,
    "folder_repeats": False,
    "prompt_weights": False,
    "caption_extension": "",
    "caption_lines": "joined",
    "transparency": "white",
    "unmasked_weight": 0.0,
    "shuffle_tags": False,
    "keep_tokens": 1,
    "tag_dropout": 0.0,
    "caption_variants": 4,
    "more_folders": "",
    "regularisation_weight": 1.0,
    "fit": "crop",
    "more_resolutions": "",
}


@pytest.fixture(scope="module")
def dataset(node):
    return node("D2FFolderDataset")


@pytest.fixture(scope="module")
def checkpoint(pack):
    from diff2flow_kit.demo.networks import load_demo_checkpoint

    return load_demo_checkpoint()


@pytest.fixture
def clip(checkpoint):
    return checkpoint[1]


@pytest.fixture
def vae(checkpoint):
    return checkpoint[2]


@pytest.fixture
def output(comfy, tmp_path, monkeypatch):
    """The host's output folder, empty."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    return tmp_path / "output"


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "set"
    for name, (size, colour, caption) in SCENES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(place / name)
        (place / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    return place


@pytest.fixture
def calls(clip, vae, monkeypatch):
    """`calls.images` and `calls.captions`: what went through the VAE and the CLIP."""
    counts = SimpleNamespace(images=0, captions=0)
    encode, encode_tokens = vae.encode, clip.encode_from_tokens_scheduled

    def count_images(pixels):
        counts.images += len(pixels)
        return encode(pixels)

    def count_captions(*arguments, **options):
        counts.captions += 1
        return encode_tokens(*arguments, **options)

    monkeypatch.setattr(vae, "encode", count_images)
    monkeypatch.setattr(clip, "encode_from_tokens_scheduled", count_captions)
    return counts


@pytest.fixture
def run(dataset, clip, vae, folder, output):
    """`run(seed=1)` -> outputs by name, of the folder unless another is given."""

    def execute(**settings):
        given = {"clip": clip, "vae": vae, "folder": str(folder), **DEFAULTS, **settings}
        assert list(given) == [one.id for one in dataset.define_schema().inputs]
        names = ["latents", "positive", "negative", "report", "sheet"]
        return SimpleNamespace(**dict(zip(names, dataset.execute(**given).args, strict=True)))

    return execute


def state_of(model):
    """Hash of the weights and flags of a module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    flags = [(name, part.training, len(part._forward_hooks)) for name, part in model.named_modules()]
    flags += [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    digest.update(repr(flags).encode())
    return digest.hexdigest()


def test_latents_and_captions_line_up(run, clip, vae, stock):
    import nodes

    out = run()
    assert [tuple(latent["samples"].shape) for latent in out.latents] == [(3, 4, 12, 12), (1, 4, 8, 16)]
    for name, row, positive in zip(["a.png", "c.jpg", "sub/d.png"], out.latents[0]["samples"], out.positive[:3]):
        _, colour, caption = SCENES[name]
        pixels = torch.tensor(Image.new("RGB", (96, 96), colour).getpixel((0, 0))) / 255
        (expected,) = nodes.VAEEncode().encode(vae, pixels.expand(1, 96, 96, 3))
        assert torch.allclose(row, expected["samples"][0], atol=0.05), name
        (expected,) = nodes.CLIPTextEncode().encode(clip, caption)
        assert (
            torch.equal(positive[0][0], expected[0][0])
            and positive[0][1].keys() - {"d2f_text"} == expected[0][1].keys()
        )
        assert positive[0][1]["d2f_text"].text == caption
    assert len(out.positive) == 4
    (empty,) = nodes.CLIPTextEncode().encode(clip, "")
    assert torch.equal(out.negative[0][0], empty[0][0])
    assert "4 images, 4 rows in 2 buckets" in out.report and "4 encoded" in out.report
    assert out.sheet.shape[0] == 1 and out.sheet.shape[-1] == 3


def test_the_latents_are_those_of_the_image_itself(run, vae, folder):
    out = run()
    pixels = torch.tensor(list(Image.open(folder / "b.png").resize((128, 64)).tobytes())) / 255
    assert torch.allclose(out.latents[1]["samples"], vae.encode(pixels.reshape(1, 64, 128, 3)), atol=1e-3)


def test_a_second_run_encodes_nothing(run, calls):
    first = run()
    assert (calls.images, calls.captions) == (4, 5)
    second = run()
    assert (calls.images, calls.captions) == (4, 5)
    for one, two in zip(first.latents, second.latents, strict=True):
        assert torch.equal(one["samples"], two["samples"])
    for one, two in zip(first.positive, second.positive, strict=True):
        assert torch.equal(one[0][0], two[0][0]) and one[0][1].keys() == two[0][1].keys()
    assert "latents: 4 from the cache, 0 encoded" in second.report
    assert "captions: 5 from the cache, 0 encoded" in second.report


def test_a_changed_caption_encodes_that_caption_alone(run, calls, folder):
    run()
    (folder / "a.txt").write_text("a purple cylinder", encoding="utf-8")
    run()
    assert (calls.images, calls.captions) == (4, 6)


def test_a_changed_image_encodes_that_image_alone(run, calls, folder):
    run()
    Image.new("RGB", (96, 96), "white").save(folder / "a.png")
    run()
    assert (calls.images, calls.captions) == (5, 5)


def test_another_vae_or_clip_encodes_again(run, calls, clip, host, checkpoint):
    from diff2flow_kit.nodes.host import encoding

    _, _, vae = checkpoint
    run()
    before = encoding.vae_identity(vae), encoding.clip_identity(clip)
    weight = next(vae.first_stage_model.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.add_(0.01)
    try:
        run()
        assert (calls.images, calls.captions) == (8, 5)
        assert encoding.vae_identity(vae) != before[0]
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    other = clip.clone()
    other.clip_layer(-2)
    run(clip=other)
    assert (calls.images, calls.captions) == (8, 5), "the other CLIP is not the one that counts"
    assert encoding.clip_identity(other) != before[1]
    assert (encoding.vae_identity(vae), encoding.clip_identity(clip)) == before


def test_identity_of_a_clip_with_a_lora_is_the_same_in_every_session(clip, host):
    from diff2flow_kit.nodes.host import encoding

    def patched(value):
        import comfy.model_management

        name = next(name for name in clip.cond_stage_model.state_dict() if name.endswith("mlp.fc1.weight"))
        with torch.inference_mode(False):
            weight = clip.cond_stage_model.state_dict()[name]
            other = clip.clone()
            other.add_patches({name: ("diff", (torch.full_like(weight, value),))}, 1.0)
        before = encoding.clip_identity(other)
        comfy.model_management.load_models_gpu([other.patcher], force_patch_weights=True)
        assert encoding.clip_identity(other) == before, "loading patches the weights in place"
        other.patcher.unpatch_model()
        return before

    assert patched(0.1) == patched(0.1) != patched(0.2) != encoding.clip_identity(clip)


def test_host_and_generators_are_as_before(run, clip, vae):
    before = state_of(vae.first_stage_model), state_of(clip.cond_stage_model)
    generator = torch.get_rng_state()
    run(flip=True, crop=0.3, colour=0.2, variants=2)
    assert (state_of(vae.first_stage_model), state_of(clip.cond_stage_model)) == before
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_vae_that_draws_leaves_the_generator_alone(run, vae, monkeypatch):
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda pixels: encode(pixels) + 0.01 * torch.randn(1))
    before = torch.get_rng_state()
    run()
    assert torch.equal(torch.get_rng_state(), before)


def test_repeats_share_the_conditioning(run, calls):
    out = run(repeats=3)
    assert [len(latent["samples"]) for latent in out.latents] == [9, 3] and len(out.positive) == 12
    assert calls.images == 4 and out.positive[0] is out.positive[2] and out.positive[2] is not out.positive[3]


def test_variants_and_augmentation(run, calls):
    out = run(variants=2, flip=True, crop=0.4, colour=0.3)
    assert calls.images == 8 and calls.captions == 5 and len(out.positive) == 8
    assert not torch.equal(out.latents[0]["samples"][0], out.latents[0]["samples"][1])


def test_prefix_and_fallback(run, folder, clip, stock):
    import nodes

    (folder / "a.txt").unlink()
    out = run(caption="a cube", prefix="red")
    for row, text in ((0, "red, a cube"), (1, "red, a blue sphere")):
        assert torch.equal(out.positive[row][0][0], nodes.CLIPTextEncode().encode(clip, text)[0][0][0])


def test_masks(run, folder):
    mask = Image.new("L", (96, 96), 255)
    mask.paste(0, (0, 0, 48, 96))
    mask.save(folder / "a-masklabel.png")
    out = run()
    assert out.latents[0]["noise_mask"].shape == (3, 1, 96, 96) and "noise_mask" not in out.latents[1]
    assert out.latents[0]["noise_mask"][0].mean() == pytest.approx(0.5, abs=0.01)
    assert out.latents[0]["noise_mask"][1:].min() == 1 and "1 with a loss mask" in out.report


# Odd files


def truncated(path):
    Image.effect_noise((96, 96), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def animated(path):
    frames = [Image.new("RGB", (96, 96), colour) for colour in ("red", "green")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def huge(path):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


ODD = {
    "truncated": (truncated, b"x", "damaged or truncated"),
    "empty": (lambda path: path.write_bytes(b""), b"x", "the file is empty"),
    "not an image": (lambda path: path.write_text("hello"), b"x", "not an image"),
    "huge": (huge, b"x", "million pixels"),
    "animated": (animated, b"x", "2 frames"),
    "no caption": (lambda path: Image.new("RGB", (96, 96)).save(path), None, "no caption"),
    "empty caption": (lambda path: Image.new("RGB", (96, 96)).save(path), b" \n", "the caption is empty"),
    "odd caption": (lambda path: Image.new("RGB", (96, 96)).save(path), b"\xff\xfe\x00", "not UTF-8"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_stop_or_are_skipped(run, calls, folder, kind):
    make, caption, reason = ODD[kind]
    make(folder / "odd.png")
    if caption is not None:
        (folder / "odd.txt").write_bytes(caption)
    with pytest.raises(ValueError, match=r"(?s)1 of the files .*odd\.png: .*" + reason + ".*'odd_files' to skip"):
        run()
    assert (calls.images, calls.captions) == (0, 0), "nothing is encoded before the user has decided"
    out = run(odd_files="skip")
    assert len(out.positive) == 4 and "invalid files, skipped (1)" in out.report and reason in out.report


def white(mode):
    """A white image of 96 x 96 pixels in one of Pillow's modes."""
    if mode == "I;16":
        return Image.frombytes(mode, (96, 96), b"\xff" * 2 * 96 * 96)
    return Image.new("RGB", (96, 96), "white").convert(mode)


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "L", "P", "LA", "RGBA"])
def test_images_of_other_modes_are_converted(run, folder, vae, mode):
    white(mode).save(folder / ("odd.jpg" if mode == "CMYK" else "odd.png"))
    (folder / "odd.txt").write_text("white", encoding="utf-8")
    squares = run().latents[0]["samples"]  # a.png, c.jpg, the odd one, sub/d.png
    expected = vae.encode(torch.ones(1, 96, 96, 3))[0]
    assert torch.allclose(squares[2], expected, atol=0.05) and not torch.allclose(squares[0], expected, atol=0.05)


def test_small_images(run, folder):
    Image.new("RGB", (40, 40)).save(folder / "a.png")
    assert len(run().positive) == 4
    out = run(upscale="skip")
    assert len(out.positive) == 3 and "a.png: 40 x 40 is smaller than its bucket 96x96" in out.report


def test_a_folder_of_nothing(run, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"no images to train on in .*nothing; put PNG"):
        run(folder=str(tmp_path / "nothing"))


def test_folders_that_are_not_there(run, folder, comfy, monkeypatch):
    import folder_paths

    with pytest.raises(ValueError, match=r"folder '.*/sets' is not a folder.* has the folders 'set'"):
        run(folder=str(folder.parent / "sets"))
    monkeypatch.setattr(folder_paths, "input_directory", str(folder.parent))
    with pytest.raises(ValueError, match=r"folder 'typo' is not a folder.*input folder.*'set'"):
        run(folder="typo")
    with pytest.raises(ValueError, match="folder '' is not a folder"):
        run(folder="")
    for name in ("set", ' "set" ', str(folder / "..") + "/set"):
        assert len(run(folder=name).positive) == 4


def test_sizes_must_suit_the_vae(run):
    with pytest.raises(ValueError, match=r"resolution is 100.*multiple of 8"):
        run(resolution=100)


@pytest.mark.parametrize("name", ["clip", "vae"])
def test_a_checkpoint_without_clip_or_vae(run, name):
    with pytest.raises(ValueError, match=f"input '{name}' is empty.*loader for the {name.upper()}"):
        run(**{name: None})


def test_a_vae_of_videos_is_refused(run, vae, monkeypatch):
    monkeypatch.setattr(vae, "encode", lambda pixels: torch.zeros(1, 16, len(pixels), 12, 12))
    with pytest.raises(ValueError, match="VAE of an image model"):
        run()


def test_a_vae_that_overflows_is_refused_and_nothing_is_kept(run, vae, monkeypatch, output):
    with monkeypatch.context() as patch:
        patch.setattr(vae, "encode", lambda pixels: torch.full((len(pixels), 4, 12, 12), float("nan")))
        with pytest.raises(ValueError, match=r"not finite.*--fp32-vae"):
            run()

    def one_spoilt(pixels):
        latents = torch.zeros(len(pixels), 4, 12, 12)
        latents[-1, 0, 5, 5] = float("inf")
        return latents

    with monkeypatch.context() as patch:
        patch.setattr(vae, "encode", one_spoilt)
        with pytest.raises(ValueError, match=r"not finite for [\w/]+\.png, which") as raised:
            run()
    assert sum(name in str(raised.value) for name in SCENES) == 1
    assert not list((output / "diff2flow" / "cache").glob("latents/*/*.safetensors"))
    assert len(run().positive) == 4


# The cache, cancelling


def test_interrupt_keeps_what_is_done(run, calls, vae, monkeypatch, output):
    import comfy.model_management as management

    from diff2flow_kit.d2f_data.image_sets import training_set

    monkeypatch.setattr(training_set, "BATCH_PIXELS", 2 * 96 * 96)
    encode = vae.encode

    def interrupted(pixels):
        latents = encode(pixels)
        if calls.images == 3:
            management.interrupt_current_processing(True)
        return latents

    with monkeypatch.context() as patch:
        patch.setattr(vae, "encode", interrupted)
        with pytest.raises(management.InterruptProcessingException):
            run()
    assert calls.images == 3, "the batch in work was finished, and no other begun"
    out = run()
    assert calls.images == 4 and "latents: 3 from the cache, 1 encoded" in out.report
    assert not list(output.rglob("*.tmp"))


def test_an_interrupt_inside_of_the_vae_loses_that_batch_alone(run, calls, vae, monkeypatch):
    import comfy.model_management as management

    from diff2flow_kit.d2f_data.image_sets import training_set

    monkeypatch.setattr(training_set, "BATCH_PIXELS", 1)
    encode = vae.encode

    def interrupted(pixels):
        if calls.images == 2:
            raise management.InterruptProcessingException
        return encode(pixels)

    generator = torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(vae, "encode", interrupted)
        with pytest.raises(management.InterruptProcessingException):
            run()
    assert torch.equal(torch.get_rng_state(), generator)
    run()
    assert calls.images == 4


@pytest.mark.parametrize("room, counted", [("latents", "images"), ("captions", "captions")])
def test_a_harmed_cache_file_is_encoded_again(run, calls, output, caplog, room, counted):
    first = run()
    path = sorted((output / "diff2flow" / "cache" / room).glob("*/*.safetensors"))[0]
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    before = getattr(calls, counted)
    with caplog.at_level(logging.WARNING, "diff2flow"):
        second = run()
    assert path.name in caplog.text and getattr(calls, counted) == before + 1
    assert all(torch.equal(a["samples"], b["samples"]) for a, b in zip(first.latents, second.latents, strict=True))
    caplog.clear()
    run()
    assert getattr(calls, counted) == before + 1 and not caplog.text


def test_the_cache_says_what_it_holds(run, output):
    from safetensors import safe_open

    out = run()
    cache = output / "diff2flow" / "cache"
    assert str(cache) in out.report
    files = list(cache.glob("latents/*/*.safetensors"))
    assert len(files) == 4
    with safe_open(files[0], "pt") as file:
        assert file.metadata()["space"].startswith("vae") and file.metadata()["bucket"] in ("96x96", "128x64")


# SDXL


class TwoEncoders:
    """A CLIP of SDXL's outside: tokens of l and g, pooled output."""

    def __init__(self, clip):
        self.clip = clip
        for name in ("cond_stage_model", "patcher", "layer_idx", "tokenizer_options"):
            setattr(self, name, getattr(clip, name))

    def tokenize(self, text):
        tokens = self.clip.tokenize(text)["l"]
        return {"l": tokens, "g": tokens}

    def encode_from_tokens_scheduled(self, tokens, add_dict=None, **options):
        ((cond, _),) = self.clip.encode_from_tokens_scheduled({"l": tokens["l"]})
        return [[cond, {"pooled_output": cond[:, -1], **(add_dict or {})}]]


def test_conditioning_of_sdxl_is_that_of_the_stock_node(run, clip, stock):
    two = TwoEncoders(clip)
    for out in (run(clip=two), run(clip=two)):
        wide = out.positive[-1]
        sizes = {"width": 192, "height": 96, "crop_w": 0, "crop_h": 0, "target_width": 128, "target_height": 64}
        expected = (
            stock("clip_sdxl", "CLIPTextEncodeSDXL")
            .execute(two, **sizes, text_g="a green cube", text_l="a green cube")
            .args[0]
        )
        assert wide[0][1].keys() - {"d2f_text"} == expected[0][1].keys()
        for name, value in expected[0][1].items():
            found = wide[0][1][name]
            assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value, name
        assert torch.equal(wide[0][0], expected[0][0])
        assert "width" not in out.negative[0][1]


def test_other_models_get_no_sizes(run):
    assert all("width" not in positive[0][1] for positive in run().positive)


# The host's side


def test_fingerprint_follows_the_folder(dataset, folder, comfy):
    def fingerprint(name=str(folder)):
        return dataset.fingerprint_inputs(**{**DEFAULTS, "clip": None, "vae": None, "folder": name})

    first = fingerprint()
    assert fingerprint() == first != fingerprint(str(folder / "sub"))
    (folder / "a.txt").write_text("another", encoding="utf-8")
    second = fingerprint()
    os.utime(folder / "a.png", (1, 1))
    third = fingerprint()
    (folder / "b.png").rename(folder / "e.png")
    assert len({first, second, third, fingerprint()}) == 4
    assert fingerprint("not there") == fingerprint(None) == ""


def test_outputs_are_lists_where_the_trainer_wants_lists(dataset):
    outputs = {one.display_name: one.is_output_list for one in dataset.define_schema().outputs}
    assert outputs == {
        "latents": True,
        "positive": True,
        "negative": False,
        "report": False,
        "contact_sheet": False,
    }


def test_every_input_is_explained(dataset, root):
    schema = dataset.define_schema()
    page = (root / "web" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8")
    for one in (*schema.inputs, *schema.outputs):
        assert one.tooltip.isascii() and len(one.tooltip) > 10
        assert (one.display_name or getattr(one, "id", "")) in page


def test_folder_is_read_inside_a_running_event_loop(run):
    """As in the host, which executes nodes from one."""

    async def main():
        return run()

    with ThreadPoolExecutor(1) as pool, torch.inference_mode():
        assert len(pool.submit(lambda: asyncio.run(main())).result().positive) == 4


def test_the_trainer_takes_what_comes_out(run, checkpoint, folder, pack):
    from diff2flow_kit.nodes import host
    from diff2flow_kit.nodes.training.latent_items import LatentItems

    mask = Image.new("L", (96, 96), 255)
    mask.paste(0, (0, 0, 48, 96))
    mask.save(folder / "sub" / "d-masklabel.png")
    out = run()
    with host.training(checkpoint[0]) as network:
        items = LatentItems(network, out.latents, out.positive, [out.negative], "latents")
        batch = items.batch([0, 1, 2], [False, True, False])
        assert len(items) == 4 and [len(group) for group in items.groups] == [3, 1]
        assert torch.equal(batch.x0.cpu(), out.latents[0]["samples"].clone()), "the demo model's latents have scale 1"
        assert batch.mask is not None and batch.mask[0].min() == 1 and batch.mask[2].min() < 0.1


@pytest.mark.slow
def test_over_the_servers_api(server, folder):
    """A folder of the input folder; run again, the host's own cache answers until the folder changes."""
    import shutil

    place = server.base / "input" / "training_set"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)

    def report():
        dataset = {**DEFAULTS, "folder": "training_set", "clip": ["1", 1], "vae": ["1", 2]}
        prompt = {
            "1": {"class_type": "D2FDemoCheckpoint", "inputs": {}},
            "set": {"class_type": "D2FFolderDataset", "inputs": dataset},
            "report": {"class_type": "PreviewAny", "inputs": {"source": ["set", 3]}},
            "sheet": {"class_type": "SaveImage", "inputs": {"images": ["set", 4], "filename_prefix": "d2f_sheet"}},
        }
        result = server.run(prompt)
        cached = {
            name for event in result.messages if event["type"] == "execution_cached" for name in event["data"]["nodes"]
        }
        return result.outputs["report"]["text"][0], "set" in cached, result.images()

    first, cached, images = report()
    assert "4 images, 4 rows in 2 buckets" in first and not cached and len(images) == 1
    assert report()[1], "nothing has changed, so the host does not run the node"
    (place / "a.txt").write_text("a purple cylinder", encoding="utf-8")
    second, cached, _ = report()
    assert not cached and "latents: 4 from the cache, 0 encoded" in second
    assert "captions: 4 from the cache, 1 encoded" in second
    assert (server.base / "output" / "diff2flow" / "cache" / "latents").is_dir()
