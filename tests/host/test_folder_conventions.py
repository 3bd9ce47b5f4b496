"""Training Set from Folder: every convention of folders that people have, with the value that is right."""

import copy
import random
import re
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

ODD_CAPTIONS = [
    "saber_(fate), smile :)",
    "a (red:1.4) cube",
    "((a)) cube",
    r"saber \(fate\)",
    "embedding:ghost cube",
    "a cube embedding:ghost, blue",
    "a\\b (c) \\) d",
]


@pytest.fixture(scope="module")
def checkpoint(pack):
    from diff2flow_kit.demo.networks import load_demo_checkpoint

    return load_demo_checkpoint()


@pytest.fixture
def folder(tmp_path, comfy, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


@pytest.fixture
def told(host, monkeypatch):
    """What was said on the node."""
    said = []
    monkeypatch.setattr(host, "tell", said.append)
    return said


@pytest.fixture
def run(node, checkpoint, folder, told):
    """`run(prefix="sks")` -> outputs by name."""
    dataset = node("D2FFolderDataset")

    def execute(**settings):
        defaults = {one.id: one.default for one in dataset.define_schema().inputs if hasattr(one, "default")}
        given = {**defaults, "resolution": 96, "bucket_step": 32, "folder": str(folder), **settings}
        given |= {"clip": checkpoint[1], "vae": checkpoint[2]}
        names = ["latents", "positive", "negative", "report", "sheet"]
        return SimpleNamespace(**dict(zip(names, dataset.execute(**given).args, strict=True)))

    return execute


def fill(folder, *names, size=(96, 96), colour="red"):
    for name in names:
        name, _, text = name.partition("=")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg"):
            Image.new("RGB", size, colour).save(path)
        else:
            path.write_text(text, encoding="utf-8")


def prompt(checkpoint, text):
    import nodes

    return nodes.CLIPTextEncode().encode(checkpoint[1], text)[0][0][0]


def literal_ids(checkpoint, text):
    """Tokens of the text by the tokenizer's library alone, without start and end."""
    tokenizer = checkpoint[1].tokenizer.clip_l.tokenizer
    return tokenizer(text)["input_ids"][1:-1]


# Kind 29: captions as they are written


@pytest.mark.parametrize("caption", ODD_CAPTIONS)
def test_a_literal_caption_has_the_tokens_of_its_text(host, checkpoint, caption):
    clip = checkpoint[1]
    asked, before, own = [], dict(vars(clip.tokenizer.clip_l)), copy.copy(clip)

    def encode(tokens, **options):
        asked.append(tokens)
        return clip.encode_from_tokens_scheduled(tokens, **options)

    own.encode_from_tokens_scheduled = encode
    host.encode_caption(own, caption, prompt_weights=False)
    (tokens,) = asked
    ids = literal_ids(checkpoint, caption)
    found = [(token, weight) for chunk in tokens["l"] for token, weight in chunk]
    start, end = found[0][0], clip.tokenizer.clip_l.end_token
    assert [token for token, _ in found if token not in (start, end)] == [one for one in ids if one not in (start, end)]
    assert {weight for _, weight in found} == {1.0}
    assert vars(clip.tokenizer.clip_l) == before, "the host's tokenizer is as it was"


def test_a_literal_caption_loads_no_embedding_that_is_there(host, checkpoint, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    clip = copy.copy(checkpoint[1])
    tokenizer = clip.tokenizer.clip_l
    save_file({"emb_params": torch.ones(2, tokenizer.embedding_size)}, tmp_path / "ghost.safetensors")
    monkeypatch.setattr(tokenizer, "embedding_directory", str(tmp_path))
    asked = []
    monkeypatch.setattr(clip, "encode_from_tokens_scheduled", lambda tokens, **options: asked.append(tokens) or [])
    for prompt_weights in (True, False):
        host.encode_caption(clip, "a cube embedding:ghost", prompt_weights)
    loaded = [any(torch.is_tensor(token) for chunk in one["l"] for token, _ in chunk) for one in asked]
    assert loaded == [True, False], "as a prompt it is loaded, as a caption it is text"


def test_prompt_syntax_is_known_as_the_host_reads_it(comfy):
    """Random texts of brackets: ours says that a prompt differs exactly if the host's parser changes the text."""
    import comfy.sd1_clip as clip

    from diff2flow_kit.d2f_data.image_sets.captions.weights import has_prompt_syntax

    draw, found = random.Random(0), []
    for _ in range(4000):
        text = "".join(draw.choice(["(", ")", "\\(", "\\)", "a", ":1.2", " "]) for _ in range(draw.randint(1, 9)))
        parsed = clip.token_weights(clip.escape_important(text), 1.0)
        changed = [(clip.unescape_important(one), weight) for one, weight in parsed]
        differs = "".join(one for one, _ in changed) != text or any(weight != 1 for _, weight in changed)
        found.append(has_prompt_syntax(text))
        assert found[-1] == differs, text
    assert 0.2 < sum(found) / len(found) < 0.9


def test_captions_are_literal_by_default_and_prompts_by_choice(run, checkpoint, folder, host):
    fill(folder, "a.png", "a.txt=a (red:1.4) cube, smile :)", "b.png", "b.txt=a blue cube")
    literal, weighted = run(), run(prompt_weights=True)
    text = "a (red:1.4) cube, smile :)"
    assert torch.equal(weighted.positive[0][0][0], prompt(checkpoint, text))
    assert not torch.equal(literal.positive[0][0][0], weighted.positive[0][0][0])
    assert torch.equal(literal.positive[0][0][0], host.encode_caption(checkpoint[1], text, False)[0][0])
    assert torch.equal(literal.positive[1][0][0], prompt(checkpoint, "a blue cube")), "a plain caption is one anyway"
    assert f"captions with brackets or embeddings: 1 of 2, such as {text!r}; 'prompt_weights' would" in literal.report
    assert "'prompt_weights' reads them as prompt syntax" in weighted.report
    again = run()
    assert "captions: 3 from the cache, 0 encoded" in again.report
    assert torch.equal(again.positive[0][0][0], literal.positive[0][0][0]), "the cache keeps both apart"


# Kinds 27, 30, 31, 33: sources of captions


@pytest.mark.parametrize(
    "names, settings, expected",
    [
        (["cat.png", "cat.caption=a red cube"], {}, ["a red cube"]),
        (["cat.png", "cat.caption=a red cube"], {"caption": "a thing"}, ["a red cube"]),
        (["cat.png", "cat.tags=a red cube", "cat.txt=x"], {"caption_extension": "tags"}, ["a red cube"]),
        (["10_red cube/1.png"], {}, ["red cube"]),
        (["a red cube.png"], {"captions": "file_name"}, ["a red cube"]),
        (["cubes/1.png"], {"captions": "folder_name"}, ["cubes"]),
        (["a.png", "metadata.csv=file_name,text\na.png,a red cube\n"], {}, ["a red cube"]),
        (["a.png", 'metadata.json={"a": {"caption": "a red cube"}}'], {}, ["a red cube"]),
        (["a.png", "b.png"], {"prefix": "red cube"}, ["red cube", "red cube"]),
        (["a.png", "a.txt=a red\ncube"], {}, ["a red cube"]),
        (["a.png", "a.txt=a red\ncube"], {"caption_lines": "first"}, ["a red"]),
    ],
)
def test_where_captions_come_from(run, checkpoint, folder, names, settings, expected):
    fill(folder, *names)
    found = run(**settings).positive
    assert len(found) == len(expected)
    for one, text in zip(found, expected, strict=True):
        assert torch.equal(one[0][0], prompt(checkpoint, text))


@pytest.mark.parametrize("name", ["IMG_1.TXT", "IMG_1.png.txt"])
def test_near_misses_are_named_before_anything_is_encoded(run, folder, told, name):
    fill(folder, "IMG_1.png", f"{name}=a cube")
    with pytest.raises(
        ValueError, match=rf"IMG_1\.png: no caption; {re.escape(name)} is beside it; rename it to IMG_1\.txt"
    ):
        run()
    run(caption="a thing")
    assert f"{name} is beside it; rename it" in told[-1], "the node itself says so"


def test_what_was_silent_is_said_on_the_node(run, folder, told):
    fill(folder, "1.png", "1.jpg", "1.txt=a\nb", "masks/lost.png", "metadata.csv=file,text\n1.png,x\n")
    report = run(captions="txt").report
    unused = "metadata.csv has captions of images here (1) and is not used"
    for words in ("captions with several lines (2): joined", "share (1): 1.txt", "masks/lost.png", unused):
        assert words in told[-1] and words in report


def test_a_plain_folder_says_nothing(run, folder, told):
    fill(folder, "a.png", "a.txt=a cube")
    assert "note" not in run().report and told == []


# Kind 28: masks


@pytest.mark.parametrize("mask", ["masks/a.jpg", "mask/a.png", "a-MaskLabel.PNG", "Masks/a.jpg"])
def test_masks_of_every_kind_are_used_and_not_trained_on(run, folder, mask):
    fill(folder, "a.jpg", "a.txt=a cube")
    half = Image.new("RGB", (96, 96), "white")
    half.paste("black", (0, 0, 48, 96))
    (folder / mask).parent.mkdir(exist_ok=True)
    half.save(folder / mask)
    out = run(caption="a fallback")
    assert len(out.positive) == 1 and "1 with a loss mask" in out.report
    assert out.latents[0]["noise_mask"].mean() == pytest.approx(0.5, abs=0.02)
    weighted = run(unmasked_weight=0.2, caption="a fallback").latents[0]["noise_mask"]
    assert weighted.min() == pytest.approx(0.2, abs=0.01) and weighted.max() == 1


# Kind 32: what is cut off, transparency


def test_what_is_cut_off_is_said_and_shown(run, folder, told):
    fill(folder, "tall.png", "tall.txt=a cube", size=(80, 600))
    fill(folder, "fine.png", "fine.txt=a cube")
    out = run()
    worst = re.search(r"cut off on average, at most (\d+\.\d)% \(tall\.png\)", out.report)
    assert worst and worst.group(1) == "66.7", "64x480 of which 64x160 is kept"
    assert "images that lose more than 25% of their area (1), most of all tall.png (67%)" in told[-1]
    padded = run(fit="pad")
    assert "cut off" not in padded.report
    masks = [latent.get("noise_mask") for latent in padded.latents]
    assert any(mask is not None and mask.min() == 0 and mask.max() == 1 for mask in masks)


def test_transparency_is_said_or_is_the_mask(run, folder, told):
    image = Image.new("RGBA", (96, 96), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 48, 96))
    image.save(folder / "a.png")
    fill(folder, "a.txt=a cube")
    assert "noise_mask" not in run().latents[0]
    assert "laid on white (1), such as a.png: set 'transparency' to mask" in told[-1]
    told.clear()
    assert run(transparency="mask").latents[0]["noise_mask"].mean() == pytest.approx(0.5, abs=0.02)
    assert told == []


def test_the_contact_sheet_shows_masks_and_captions(run, folder):
    fill(folder, "a.png", "a.txt=a caption", "b.png", "b.txt=")
    fill(folder, "masks/a.png", colour="black")
    mask = Image.new("L", (96, 96), 0)
    mask.paste(255, (48, 0, 96, 96))
    mask.save(folder / "masks" / "a.png")
    sheet = run(caption="x").sheet[0]
    left, right = sheet[96, 60], sheet[96, 130]
    assert right[0] > 0.9 and right[1] < 0.1, "red as it is"
    assert 0.3 < left[0] < 0.8, "what the mask leaves out is dimmed"
    assert sheet[192:240, :192].min() < 0.5, "the caption is written below"
    assert (sheet[208:224, :192] - sheet[208:224, 192:384]).abs().max() > 0.3, "each its own"


# Several folders, regularisation, resolutions


def test_several_folders_with_repeats_and_weights(run, folder, checkpoint, host):
    fill(folder, "a.png", "a.txt=a red cube")
    fill(folder.parent / "more", "a.png", "a.txt=a blue cube", colour="blue")
    fill(folder.parent / "dogs", "1.png", "1.txt=a green cube", colour="green")
    out = run(
        prefix="sks", more_folders="more | repeats 2 | weight 0.5\n\n dogs | regularisation", regularisation_weight=0.25
    )
    texts = ["sks, a red cube", "sks, a blue cube", "sks, a blue cube", "a green cube"]
    assert all(torch.equal(one[0][0], prompt(checkpoint, text)) for one, text in zip(out.positive, texts, strict=True))
    assert out.latents[0][host.WEIGHTS_KEY].tolist() == [1.0, 0.5, 0.5, 0.25]
    assert host.WEIGHTS_KEY not in run().latents[0]


def test_a_folder_named_reg_is_regularisation(run, folder, checkpoint, host):
    fill(folder, "10_sks cube/a.png", "reg/1_cube/b.png", "reg/1_cube/c.png")
    out = run(prefix="sks", regularisation_weight=0.5, folder_repeats=True)
    assert out.latents[0][host.WEIGHTS_KEY].tolist() == [1.0] * 10 + [0.5, 0.5]
    assert torch.equal(out.positive[-1][0][0], prompt(checkpoint, "cube")), "without the trigger word"
    assert "2 regularisation images" in out.report


@pytest.mark.parametrize(
    "text, fault",
    [
        ("gone", "more_folders 'gone' is not a folder"),
        ("set", "more_folders names 'set', which is already in the set"),
        ("more | repeat 2", "'repeat 2' is not an option; allowed are repeats 3, weight 0.5 and regularisation"),
        ("more | weight x", "'weight x' is not an option"),
        ("more | repeats 0", "'repeats 0' is not an option"),
        ("more | weight nan", "'weight nan' is not an option"),
    ],
)
def test_faults_in_more_folders_are_named(run, folder, text, fault):
    fill(folder, "a.png", "a.txt=a")
    fill(folder.parent / "more", "a.png", "a.txt=a")
    with pytest.raises(ValueError, match=re.escape(fault)):
        run(more_folders=text)


def test_faults_are_found_when_the_graph_is_queued(node, folder):
    validate = node("D2FFolderDataset").validate_inputs
    assert validate(str(folder), "", "768, 1024") is True
    assert "more_resolutions has '12x'" in validate(str(folder), "", "12x")
    assert "'gone' is not a folder" in validate(str(folder), "gone", "")
    assert validate(None, None, None) is True


def test_the_state_of_every_folder_is_in_the_fingerprint(node, folder):
    state = node("D2FFolderDataset").fingerprint_inputs
    fill(folder, "a.png")
    fill(folder.parent / "more", "a.png")
    one, both = state(str(folder), ""), state(str(folder), "more")
    fill(folder.parent / "more", "b.png")
    assert state(str(folder), "") == one != both != state(str(folder), "more")


def test_several_resolutions_are_buckets_of_one_set(run, folder):
    fill(folder, "a.png", "a.txt=a cube", size=(200, 200))
    out = run(more_resolutions="128, 160")
    assert [tuple(latent["samples"].shape[-2:]) for latent in out.latents] == [(12, 12), (16, 16), (20, 20)]
    assert len(out.positive) == 3


def test_variants_of_captions_are_encoded_once_each(run, folder, checkpoint, host):
    fill(folder, "a.png", "a.txt=red, cube, small, round", "b.png", "b.txt=blue")
    out = run(shuffle_tags=True, caption_variants=5, prefix="sks")
    entry = out.positive[0][0]
    assert len(entry[1][host.CAPTIONS_KEY]) == 4
    assert "images with several captions: 2, " in out.report
    first, *others = (one[0] for one in [entry, *entry[1][host.CAPTIONS_KEY]])
    assert any(not torch.equal(first, other) for other in others)
    assert re.search(r"captions: 0 from the cache, (\d) encoded", out.report)
    assert "0 encoded" in run(shuffle_tags=True, caption_variants=5, prefix="sks").report.split("captions: ")[-1]
