"""Training folders: images of every kind, captions, masks, and files that cannot be used."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from diff2flow_kit.d2f_data.image_sets import images
from diff2flow_kit.d2f_data.image_sets.folder import Captions, find_training_images
from diff2flow_kit.d2f_data.image_sets.images import InvalidImageError, read_image, read_mask, read_size


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def picture(path, size=(32, 24), colour="red", caption=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def found(folder, *arguments, **captions):
    items, invalid = find_training_images(folder, Captions(**captions), *arguments)
    return {item.name: item for item in items}, {file.name: file.reason for file in invalid}


def corner(image):
    return image.getpixel((0, 0))


# Pixels


def test_plain_images_are_read_as_they_are(folder):
    for suffix in (".png", ".bmp", ".webp", ".tif", ".gif"):
        path = picture(folder / f"a{suffix}", colour=(255, 0, 0))
        assert read_size(path) == (32, 24) and read_image(path).mode == "RGB"
        assert np.abs(np.subtract(corner(read_image(path)), (255, 0, 0))).max() <= 2


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(folder, suffix, orientation):
    upright = Image.new("RGB", (40, 24), "black")
    upright.paste("white", (0, 0, 20, 12))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that EXIF asks the reader to undo
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if suffix in (".jpg", ".webp") else {}
    stored.save(folder / f"a{suffix}", exif=exif, **options)
    path = folder / f"a{suffix}"
    assert read_size(path) == (40, 24)
    assert np.abs(np.asarray(read_image(path), dtype=int) - np.asarray(upright, dtype=int)).mean() < 5


def test_exif_behind_the_pixels_of_a_png_changes_neither_size_nor_pixels(folder):
    path = picture(folder / "late.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = b"eXIf" + exif.tobytes()[6:]
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = path.read_bytes()
    path.write_bytes(data[:-12] + whole + data[-12:])
    assert read_size(path) == read_image(path).size == (32, 24)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_lies_over_white(folder, mode):
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (8, 0, 16, 16))
    path = folder / ("a.tif" if mode == "PA" else "a.png")
    image.convert(mode).save(path)
    read = read_image(path)
    assert corner(read) == (255, 255, 255)
    assert read.getpixel((12, 4)) != (255, 255, 255)


def test_transparent_palette_lies_over_white(folder):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    image.save(folder / "a.png", transparency=0)
    read = read_image(folder / "a.png")
    assert corner(read) == (255, 255, 255) and read.getpixel((5, 5)) == (0, 255, 0)


def test_grey_and_one_bit_images(folder):
    Image.new("L", (16, 16), 77).save(folder / "grey.png")
    Image.new("1", (16, 16), 1).save(folder / "bit.png")
    assert corner(read_image(folder / "grey.png")) == (77, 77, 77)
    assert corner(read_image(folder / "bit.png")) == (255, 255, 255)


@pytest.mark.parametrize("value, expected", [(0, 0), (65535, 255), (32768, 128), (300, 1)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_its_range(folder, value, expected, suffix):
    Image.fromarray(np.full((16, 16), value, dtype=np.uint16)).save(folder / f"deep{suffix}")
    assert corner(read_image(folder / f"deep{suffix}")) == (expected,) * 3


def test_float_images_are_0_to_1(folder):
    Image.fromarray(np.full((16, 16), 0.5, dtype=np.float32)).save(folder / "half.tif")
    assert corner(read_image(folder / "half.tif")) == (128, 128, 128)
    Image.fromarray(np.full((16, 16), 7.0, dtype=np.float32)).save(folder / "hdr.tif")
    with pytest.raises(InvalidImageError, match="outside 0 to 1"):
        read_image(folder / "hdr.tif")


def test_cmyk_becomes_the_same_colour(folder):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(folder / "a.jpg", quality=95)
    red, green, blue = corner(read_image(folder / "a.jpg"))
    assert red > 240 and green < 20 and blue < 20


def test_cmyk_with_an_unusable_profile(folder):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # an RGB profile on CMYK
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(folder / "a.jpg", icc_profile=profile)
    assert corner(read_image(folder / "a.jpg"))[0] > 240


# Images that cannot be used


def test_truncated_images(folder):
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    for suffix in (".jpg", ".png", ".webp"):
        path = folder / f"a{suffix}"
        noise.save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InvalidImageError, match="damaged or truncated"):
            read_image(path)


def test_damaged_header(folder):
    path = picture(folder / "a.png")
    data = bytearray(path.read_bytes())
    data[18] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InvalidImageError):
        read_image(path)


@pytest.mark.parametrize(
    "content, reason",
    [(b"", "the file is empty"), (b"hello", "not an image"), (b"\x89PNG\r\n\x1a\n", "(not an|damaged)")],
)
def test_files_that_are_not_images(folder, content, reason):
    (folder / "a.png").write_bytes(content)
    with pytest.raises(InvalidImageError, match=reason):
        read_size(folder / "a.png")


def test_huge_images_are_refused_from_the_header(folder, monkeypatch):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    for limit in (Image.MAX_IMAGE_PIXELS, None):  # whatever another pack has done to Pillow's limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InvalidImageError, match="89 million pixels"):
            read_size(folder / "bomb.png")


def test_an_image_over_the_limit_that_pillow_only_warns_of(folder, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 500)
    with pytest.raises(InvalidImageError, match="32 x 24 is more than"):
        read_size(picture(folder / "a.png"))


def test_broken_links(folder):
    (folder / "a.png").symlink_to(folder / "gone.png")
    (folder / "a.txt").write_text("a")
    assert set(found(folder)[0]) == {"a.png"}
    with pytest.raises(InvalidImageError, match=r"cannot be opened.*check the link"):
        read_size(folder / "a.png")


def test_tiny_images(folder):
    with pytest.raises(InvalidImageError, match="4 x 24 is too small"):
        read_size(picture(folder / "a.png", (4, 24)))


def test_animations_and_pages(folder):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    for suffix in (".gif", ".webp", ".tif", ".png"):
        frames[0].save(folder / f"a{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(InvalidImageError, match="3 frames"):
            read_size(folder / f"a{suffix}")


def test_a_camera_preview_is_not_an_animation(folder):
    image = Image.new("RGB", (64, 48), "red")
    image.save(folder / "a.jpg", format="MPO", save_all=True, append_images=[image.resize((16, 12))])
    assert Image.open(folder / "a.jpg").format == "MPO"
    assert read_image(folder / "a.jpg").size == (64, 48)


# Captions


def test_captions_beside_the_images(folder):
    picture(folder / "a.png", caption="a  cat\non a mat\n")
    picture(folder / "sub" / "b.jpg", caption="\ufeffa dog")
    items, invalid = found(folder)
    assert {name: item.caption for name, item in items.items()} == {"a.png": "a cat on a mat", "sub/b.jpg": "a dog"}
    assert not invalid


def test_missing_and_empty_captions_are_odd_unless_there_is_a_fallback(folder):
    picture(folder / "missing.png")
    picture(folder / "empty.png", caption=" \n")
    picture(folder / "good.png", caption="good")
    items, invalid = found(folder)
    assert set(items) == {"good.png"}
    assert invalid["missing.png"].startswith("no caption") and invalid["empty.png"].startswith("the caption is empty")
    items, invalid = found(folder, fallback="a thing")
    assert not invalid and items["missing.png"].caption == items["empty.png"].caption == "a thing"


@pytest.mark.parametrize("content", ["gr\u00fcn".encode("latin-1"), "a cat".encode("utf-16")])
def test_captions_that_are_not_utf_8(folder, content):
    picture(folder / "a.png")
    (folder / "a.txt").write_bytes(content)
    items, invalid = found(folder, fallback="a thing")
    assert not items and "a.txt is not UTF-8" in invalid["a.png"]


def test_a_binary_caption(folder):
    picture(folder / "a.png", caption="a\0b")
    assert "not a text file" in found(folder)[1]["a.png"]


def test_utf_8_captions_are_kept(folder):
    picture(folder / "a.png", caption="\u732b, gr\u00fcn")
    assert found(folder)[0]["a.png"].caption == "\u732b, gr\u00fcn"


@pytest.mark.parametrize("prefix", ["sks", "sks,", " sks , "])
def test_prefix_goes_before_every_caption(folder, prefix):
    picture(folder / "a.png", caption="a cat")
    assert found(folder, prefix=prefix)[0]["a.png"].caption == "sks, a cat"
    assert found(folder, prefix=prefix, source="none")[0]["a.png"].caption == "sks"


def test_source_none_reads_nothing(folder):
    picture(folder / "a.png", caption="a cat")
    picture(folder / "b.png")
    items, invalid = found(folder, source="none", fallback="a thing")
    assert [item.caption for item in items.values()] == ["a thing", "a thing"] and not invalid


def test_unknown_source():
    with pytest.raises(ValueError, match="'csv'; allowed are auto, txt, jsonl, none"):
        Captions("csv")


@pytest.mark.parametrize("file_key, text_key", [("file", "caption"), ("file_name", "text"), ("image", "caption")])
def test_captions_by_the_line(folder, file_key, text_key):
    picture(folder / "a.png")
    picture(folder / "sub" / "b.png")
    lines = [{file_key: "a.png", text_key: "a cat"}, {file_key: "sub\\b.png", text_key: "a dog", "more": 1}]
    (folder / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    for source in ("auto", "jsonl"):
        items, invalid = found(folder, source=source)
        assert {name: item.caption for name, item in items.items()} == {"a.png": "a cat", "sub/b.png": "a dog"}
        assert not invalid
    assert set(found(folder, source="txt")[1]) == {"a.png", "sub/b.png"}


def test_names_count_from_the_folder_of_the_jsonl(folder):
    picture(folder / "sub" / "b.png")
    (folder / "sub" / "metadata.jsonl").write_text('{"file": "./b.png", "caption": "a dog"}')
    assert found(folder)[0]["sub/b.png"].caption == "a dog"


def test_a_txt_wins_over_the_jsonl_in_auto_only(folder):
    picture(folder / "a.png", caption="from txt")
    (folder / "metadata.jsonl").write_text('{"file": "a.png", "caption": "from jsonl"}')
    assert found(folder)[0]["a.png"].caption == "from txt"
    assert found(folder, source="jsonl")[0]["a.png"].caption == "from jsonl"


def test_invalid_lines_of_a_jsonl_are_named(folder):
    picture(folder / "a.png")
    lines = [
        '{"file": "a.png", "caption": "a cat"}',
        "not json",
        '{"file": "gone.png", "caption": "x"}',
        '{"file": "a.png", "caption": "again"}',
        '{"file": "a.png"}',
        '{"file": "../../etc/passwd", "caption": "x"}',
        "[1]",
        '{"file": 3, "caption": "x"}',
    ]
    (folder / "m.jsonl").write_text("\n".join(lines))
    items, invalid = found(folder)
    assert items["a.png"].caption == "a cat"
    reasons = [
        "is not JSON",
        "'gone.png', which is not in the folder",
        "is a second caption",
        "has no text under 'caption'",
    ]
    reasons += ["which is not in the folder", "has no text under 'file'", "has no text under 'file'"]
    assert list(invalid) == [f"m.jsonl, line {number}" for number in range(2, 9)]
    assert all(reason in text for reason, text in zip(reasons, invalid.values(), strict=True))


def test_a_jsonl_that_is_not_utf_8(folder):
    picture(folder / "a.png", caption="a")
    (folder / "m.jsonl").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in found(folder)[1]["m.jsonl"]


# Folders


def test_other_files_are_left_alone_and_foreign_images_are_invalid(folder):
    picture(folder / "a.png", caption="a")
    for name in ("notes.md", "b.npz", ".hidden.png", "raw.cr2", "phone.HEIC", ".git/c.png", "__MACOSX/d.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    items, invalid = found(folder)
    assert set(items) == {"a.png"} and set(invalid) == {"raw.cr2", "phone.HEIC"}
    assert "save it as PNG" in invalid["phone.HEIC"]


def test_folders_that_link_to_themselves(folder):
    picture(folder / "sub" / "a.png", caption="a")
    (folder / "sub" / "loop").symlink_to(folder, target_is_directory=True)
    assert len(found(folder)[0]) == 1


def test_folder_repeats_on_request_only(folder):
    for name in ("10_cats/a.png", "2_dogs/b.png", "birds/c.png", "0_none/d.png"):
        picture(folder / name, caption="x")
    assert {item.repeats for item in found(folder)[0].values()} == {1}
    repeats = {name: item.repeats for name, item in found(folder, True)[0].items()}
    assert repeats == {"10_cats/a.png": 10, "2_dogs/b.png": 2, "birds/c.png": 1, "0_none/d.png": 1}


def test_masks_are_found_and_are_not_trained_on(folder):
    for name in ("a.jpg", "b.png", "c.png"):
        picture(folder / name, caption="x")
    picture(folder / "a-masklabel.png")
    picture(folder / "masks" / "b.png")
    picture(folder / "lonely-masklabel.png", caption="a picture of its own")
    items, invalid = found(folder)
    assert set(items) == {"a.jpg", "b.png", "c.png", "lonely-masklabel.png"} and not invalid
    assert items["a.jpg"].mask == folder / "a-masklabel.png"
    assert items["b.png"].mask == folder / "masks" / "b.png"
    assert items["c.png"].mask is None


def test_a_black_mask_is_invalid(folder):
    assert read_mask(picture(folder / "white.png", colour="white")).getpixel((0, 0)) == 255
    with pytest.raises(InvalidImageError, match="completely black"):
        read_mask(picture(folder / "black.png", colour="black"))
