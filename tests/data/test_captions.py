"""Captions of training folders: where they come from, what is almost one, lines, tags, and prompt syntax."""

import json

import pytest
from PIL import Image

from diff2flow_kit.d2f_data.image_sets.captions.settings import Captions
from diff2flow_kit.d2f_data.image_sets.captions.tags import TagSettings, caption_variants
from diff2flow_kit.d2f_data.image_sets.captions.weights import escaped, has_prompt_syntax
from diff2flow_kit.d2f_data.image_sets.folder import read_folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def fill(folder, *names):
    """Pictures, and text files with their content behind an equals sign."""
    for name in names:
        name, _, text = name.partition("=")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".webp"):
            Image.new("RGB", (16, 16)).save(path)
        else:
            path.write_text(text, encoding="utf-8")


def captions(folder, **settings):
    """{image: caption} of a folder in which nothing is wrong."""
    found = read_folder(folder, Captions(**settings))
    assert found.invalid == []
    return {image.name: image.caption for image in found.images}


def faults(folder, **settings):
    return {file.name: file.reason for file in read_folder(folder, Captions(**settings)).invalid}


def notes(folder, **settings):
    return "\n".join(read_folder(folder, Captions(**settings)).notes)


# Caption files


def test_caption_files(folder):
    fill(folder, "cat.png", "cat.caption=a cat", "dog.png", "dog.txt=a dog")
    assert captions(folder) == {"cat.png": "a cat", "dog.png": "a dog"}
    assert captions(folder, fallback="a thing") == {"cat.png": "a cat", "dog.png": "a dog"}
    assert captions(folder, source="txt") == {"cat.png": "a cat", "dog.png": "a dog"}


def test_txt_counts_before_caption_and_says_so(folder):
    fill(folder, "a.png", "a.txt=from txt", "a.caption=from caption")
    assert captions(folder) == {"a.png": "from txt"}
    assert "images with several caption files, of which .txt is used (1): a.png" in notes(folder)


@pytest.mark.parametrize("extension", [".tags", "tags", " .tags "])
def test_an_extension_of_the_users_own(folder, extension):
    fill(folder, "a.png", "a.tags=from tags", "a.txt=from txt")
    assert captions(folder, extension=extension) == {"a.png": "from tags"}


@pytest.mark.parametrize("extension", [".png", "a/b", "..", "*", ".JPG"])
def test_extensions_that_cannot_be(extension):
    with pytest.raises(ValueError, match=r"caption_extension is .*such as \.caption or \.tags"):
        Captions(extension=extension)


@pytest.mark.parametrize(
    "near, settings, remedy",
    [
        ("a.TXT", {}, r"a\.TXT is beside it; rename it to a\.txt"),
        ("A.txt", {}, r"A\.txt is beside it; rename it to a\.txt"),
        ("a.png.txt", {}, r"a\.png\.txt is beside it; rename it to a\.txt"),
        ("a.txt.txt", {}, r"a\.txt\.txt is beside it; rename it to a\.txt"),
        ("a.tags", {}, r"a\.tags is beside it, but caption files are .* set 'caption_extension' to \.tags"),
        ("a.txt", {"extension": ".cap"}, r"a\.txt is beside it, but caption files are \.cap; set"),
        ("a.CAP", {"extension": ".cap"}, r"a\.CAP is beside it; rename it to a\.cap"),
    ],
)
def test_near_misses_are_named_with_the_remedy(folder, near, settings, remedy):
    import re

    fill(folder, "a.png", f"{near}=a cat")
    assert re.search(f"no caption; {remedy}", faults(folder, **settings)["a.png"])
    assert faults(folder, prefix="sks", **settings), "the prefix alone does not hide it"
    with_fallback = read_folder(folder, Captions(fallback="a thing", **settings))
    assert not with_fallback.invalid and re.search(f"not used.*{remedy}", " ".join(with_fallback.notes))


def test_caption_files_of_no_image_are_named(folder):
    fill(folder, "a.png", "a.txt=a", "b.txt=a caption", "readme.txt=about")
    assert notes(folder) == "caption files that belong to no image (1): b.txt"
    assert notes(folder, source="none") == ""


def test_images_that_share_a_caption_file_are_named(folder):
    fill(folder, "1.png", "1.jpg", "1.txt=one", "2.png", "2.txt=two")
    assert captions(folder) == {"1.png": "one", "1.jpg": "one", "2.png": "two"}
    assert "caption files that two or more images share (1): 1.txt" in notes(folder)


# Tables


LINES = [("a.png", "a cat"), ("sub/b.jpg", "a dog, sitting")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "header", [("file_name", "text"), ("image", "caption"), ("Filename", "Prompt"), ("path", "tags")]
)
def test_tables_with_a_header(folder, delimiter, header):
    fill(folder, "a.png", "sub/b.jpg")
    rows = [("id", *header), *(("7", *line) for line in LINES)]
    quoted = "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    (folder / "metadata.csv").write_text(quoted, encoding="utf-8-sig")
    for source in ("auto", "table"):
        assert captions(folder, source=source) == dict(LINES)


def test_a_table_without_a_header(folder):
    fill(folder, "a.png", "sub/b.jpg", 'm.csv=a.png,a cat\n\nsub\\b.jpg,"a dog, sitting"\n')
    assert captions(folder) == dict(LINES)


def test_a_table_of_tabs(folder):
    fill(folder, "a.png", "m.tsv=file_name\ttext\na.png\ta cat, on a mat; asleep\n")
    assert captions(folder) == {"a.png": "a cat, on a mat; asleep"}


@pytest.mark.parametrize(
    "value",
    [
        {"a.png": "a cat", "sub/b.jpg": "a dog, sitting"},
        {"a": {"caption": "a cat", "tags": "cat"}, "sub/b": {"tags": "a dog, sitting"}},
        [{"image": "a.png", "caption": "a cat"}, {"image": "sub/b.jpg", "caption": "a dog, sitting"}],
    ],
    ids=["name: text", "kohya", "list"],
)
def test_tables_in_json(folder, value):
    fill(folder, "a.png", "sub/b.jpg", f"meta.json={json.dumps(value)}")
    assert captions(folder) == captions(folder, source="table") == dict(LINES)


def test_absolute_names_and_names_without_extension(folder):
    fill(folder, "a.png", "sub/b.jpg")
    fill(folder, f'm.csv=image,caption\n{folder}/a.png,a cat\nsub/b,"a dog, sitting"')
    assert captions(folder) == dict(LINES)


def test_a_list_of_captions_is_several_lines(folder):
    fill(folder, "a.png", 'm.jsonl={"file_name": "a.png", "captions": ["a cat", "a mat"]}')
    assert captions(folder) == {"a.png": "a cat a mat"}
    assert captions(folder, lines="first") == {"a.png": "a cat"}


@pytest.mark.parametrize(
    "row, reason",
    [
        ("gone.png,x", "row 3: names 'gone.png', which is not in the folder"),
        ("a.png,again", "row 3: is a second caption for 'a.png'"),
        ("b,x", "row 3: names 'b', which could be b.jpg or b.png; add the extension"),
        ("../../etc/passwd,x", "which is not in the folder"),
    ],
)
def test_invalid_rows_are_named(folder, row, reason):
    fill(folder, "a.png", "b.png", "b.jpg", "b.txt=b", f"m.csv=file,caption\na.png,a cat\n{row}")
    found = read_folder(folder, Captions())
    assert reason in "; ".join(map(str, found.invalid)).replace("m.csv, ", "") and len(found.invalid) == 1


def test_files_that_are_no_tables_are_mentioned(folder):
    fill(folder, "a.png", "a.txt=a", "loss.csv=step,loss\n1,0.5\n", 'coco.json={"info": {"year": 1}, "images": []}')
    assert captions(folder) == {"a.png": "a"}
    assert "loss.csv is not used as a table of captions: its first line has no column 'file'" in notes(folder)
    assert "coco.json is not used as a table of captions" in notes(folder)
    assert notes(folder, source="txt") == ""


def test_a_json_file_about_one_image_is_no_table(folder):
    fill(folder, "a.png", "a.txt=a", 'a.json={"width": 5}', 'a.png.json={"width": 5}')
    assert captions(folder) == {"a.png": "a"} and notes(folder) == ""


def test_a_table_that_was_not_chosen_is_named(folder):
    fill(folder, "a.png", "b.png", "b.txt=b", "metadata.csv=file_name,text\na.png,a cat\n")
    assert (
        "no caption; metadata.csv has one; set 'captions' to auto or table to use it"
        in faults(folder, source="txt")["a.png"]
    )
    for settings in ({"source": "none"}, {"source": "txt", "fallback": "x"}, {"source": "file_name"}):
        assert "metadata.csv has captions of images here (1) and is not used; set 'captions' to auto" in notes(
            folder, **settings
        )


def test_a_table_beside_caption_files_is_mentioned(folder):
    fill(folder, "a.png", "a.txt=from txt", "m.csv=file_name,text\na.png,from table\n")
    assert captions(folder) == {"a.png": "from txt"}
    assert "m.csv has captions of images with a caption file (1), which counts" in notes(folder)
    assert captions(folder, source="table") == {"a.png": "from table"}


# Names


def test_kohyas_folders_without_text_files(folder):
    fill(
        folder, "10_sks dog/a.png", "10_sks dog/b.png", "10_sks dog/b.txt=a dog", "2024_trip/c.png", "2024_trip/c.txt=c"
    )
    assert captions(folder) == {"10_sks dog/a.png": "sks dog", "10_sks dog/b.png": "a dog", "2024_trip/c.png": "c"}
    assert "number of repeats in 10_sks dog, 2024_trip is not used; turn on 'folder_repeats'" in notes(folder)
    assert read_folder(folder, Captions(), True).images[0].repeats == 10
    assert captions(folder / "10_sks dog") == {"a.png": "sks dog", "b.png": "a dog"}


def test_a_year_is_not_kohyas_number_and_a_fallback_counts_first(folder):
    fill(folder, "2024_trip/c.png")
    assert "no caption" in faults(folder)["2024_trip/c.png"]
    fill(folder, "5_sks cat/d.png")
    assert captions(folder, fallback="x") == {"2024_trip/c.png": "x", "5_sks cat/d.png": "x"}


def test_names_of_files_and_folders(folder):
    fill(folder, "a red ball.png", "toys/a_blue_ball.jpg", "3_toys/x_y z.png")
    assert captions(folder, source="file_name", prefix="sks") == {
        "a red ball.png": "sks, a red ball",
        "toys/a_blue_ball.jpg": "sks, a blue ball",
        "3_toys/x_y z.png": "sks, x_y z",
    }
    assert captions(folder, source="folder_name") == {
        "a red ball.png": folder.name,
        "toys/a_blue_ball.jpg": "toys",
        "3_toys/x_y z.png": "toys",
    }


def test_a_prefix_alone(folder):
    fill(folder, "a.png", "b.png", "phone.heic=x")
    found = read_folder(folder, Captions(prefix="sks"))
    assert [image.caption for image in found.images] == ["sks", "sks"] and found.origins == {"prefix alone": 2}
    (folder / "phone.heic").unlink()
    fill(folder, "b.txt=a dog")
    assert "'captions' to none to give every image the prefix alone" in faults(folder, prefix="sks")["a.png"], (
        "one caption that is missing among others is a fault"
    )
    assert captions(folder, prefix="sks", source="none") == {"a.png": "sks", "b.png": "sks"}


def test_where_captions_come_from_is_counted(folder):
    fill(folder, "a.png", "a.txt=a", "b.png", "m.csv=file,text\nb.png,b\n", "1_c/c.png")
    assert read_folder(folder, Captions()).origins == {"caption files": 1, "tables": 1, "folder names": 1}


# Lines and tags


@pytest.mark.parametrize(
    "lines, expected", [("joined", ("a cat a mat",)), ("first", ("a cat",)), ("random", ("a cat", "a mat"))]
)
def test_several_lines(folder, lines, expected):
    fill(folder, "a.png", "a.txt=\na  cat\n\n a mat \n", "b.png", "b.txt=one")
    found = read_folder(folder, Captions(lines=lines, prefix="sks"))
    assert found.images[0].captions == tuple(f"sks, {text}" for text in expected)
    assert found.images[1].captions == ("sks, one",)
    how = {"joined": "joined", "first": "only the first is used", "random": "one is drawn per epoch"}[lines]
    assert f"captions with several lines (1): {how}" in found.notes


TAGS = "1girl, red hair, smile, hat, beach"


def test_shuffled_tags_keep_the_first_ones_and_lose_none():
    found = caption_variants([TAGS], TagSettings(shuffle=True, keep=2, variants=50), 0, "a.png")
    assert len(found) == 50 and len(set(found)) == 6, "3! orders of three tags"
    for caption in found:
        tags = caption.split(", ")
        assert tags[:2] == ["1girl", "red hair"] and sorted(tags) == sorted(TAGS.split(", "))


def test_every_order_is_equally_likely():
    found = caption_variants(["a, b, c"], TagSettings(shuffle=True, keep=0, variants=6000), 3, "x")
    counts = [found.count(order) for order in set(found)]
    assert len(counts) == 6 and max(abs(count - 1000) for count in counts) < 5 * (1000 * 5 / 6) ** 0.5


def test_dropped_tags_keep_their_order():
    found = caption_variants([TAGS], TagSettings(dropout=0.3, keep=1, variants=4000), 0, "a.png")
    kept = [caption.split(", ") for caption in found]
    assert all(tags[0] == "1girl" and tags == [tag for tag in TAGS.split(", ") if tag in tags] for tags in kept)
    for tag in TAGS.split(", ")[1:]:
        assert abs(sum(tag in tags for tags in kept) / 4000 - 0.7) < 5 * (0.21 / 4000) ** 0.5


def test_variants_depend_on_seed_and_image_alone():
    tags = TagSettings(shuffle=True, variants=8)
    first = caption_variants([TAGS], tags, 0, "a.png")
    assert caption_variants([TAGS], tags, 0, "a.png") == first
    assert caption_variants([TAGS], tags, 1, "a.png") != first != caption_variants([TAGS], tags, 0, "b.png")
    assert caption_variants([TAGS], TagSettings(shuffle=True, variants=9), 0, "a.png")[:8] == first


def test_a_sentence_is_left_as_it_is_and_off_means_off():
    assert set(caption_variants(["a cat on a mat"], TagSettings(shuffle=True, dropout=0.9), 0, "a")) == {
        "a cat on a mat"
    }
    assert caption_variants(["b,a ,c"], TagSettings(), 0, "a") == ("b,a ,c",)


def test_lines_and_tags_together(folder):
    fill(folder, "a.png", "a.txt=a, b, c\nd, e, f")
    tags = TagSettings(shuffle=True, keep=0, variants=10)
    found = read_folder(folder, Captions(lines="random", tags=tags, prefix="sks")).images[0].captions
    assert len(found) == 10 and all(caption.startswith("sks, ") for caption in found)
    assert {frozenset(caption[5:].split(", ")) for caption in found} == {frozenset("abc"), frozenset("def")}


@pytest.mark.parametrize("settings", [{"dropout": 1.0}, {"dropout": -0.1}, {"keep": -1}, {"variants": 0}])
def test_tag_settings_are_checked(settings):
    with pytest.raises(ValueError, match="must be at least"):
        TagSettings(**settings)


# Prompt syntax


@pytest.mark.parametrize(
    "caption, syntax",
    [
        ("saber_(fate)", True),
        ("(a:1.3)", True),
        ("a (b", False),
        ("smile :)", False),
        (":) (a:1.3)", False),
        (r"saber \(fate\)", True),
        ("embedding:x", True),
        ("a embedding:x", True),
        ("notembedding:x", False),
        ("[a] {b} <c>", False),
    ],
)
def test_what_a_prompt_would_change(caption, syntax):
    assert has_prompt_syntax(caption) is syntax


def test_escaped_brackets_survive_one_unescaping():
    assert escaped(r"a \(b\) (c)").replace(r"\(", "(").replace(r"\)", ")") == r"a \(b\) (c)"
