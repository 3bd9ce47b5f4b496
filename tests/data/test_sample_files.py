"""The samples of a run on disk, and the contact sheet that is made of them."""

import dataclasses

import pytest
from PIL import Image

from d2f_data.plots.sample_sheet import GAP, LABEL, TILE, notice, picture_grid, tile_size
from d2f_data.training.sample_files import MOST_COLUMNS, SampleFiles
from d2f_data.training.sample_prompts import SamplePrompt

CAT, DOG = SamplePrompt("cat", width=64, height=64), SamplePrompt("dog", width=64, height=128)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def colour(rgb, size=(64, 64)):
    return Image.new("RGB", size, rgb)


def middle(sheet, row, column, tile=TILE):
    """The pixel in the middle of a place on a sheet."""
    step = tile + 2 * GAP
    return sheet.getpixel((column * step + step // 2, LABEL + row * (LABEL + step) + LABEL + step // 2))


def names(files):
    return sorted(path.name for path in files.folder.glob("*.png"))


def test_a_sample_is_lossless_and_says_what_it_is(tmp_path):
    files, noise = SampleFiles(tmp_path, [CAT]), Image.effect_noise((64, 64), 80).convert("RGB")
    assert files.missing(100) == [0] and not files.folder.exists()
    files.save(0, 100, noise)
    assert files.missing(100) == [] and names(files) == ["step000100_0.png"]
    with Image.open(files.folder / "step000100_0.png") as image:
        assert image.tobytes() == noise.tobytes()
        assert image.info == {"diff2flow.sample": CAT.identity, "diff2flow.step": "100"}


def test_the_sheet_has_a_row_per_prompt_and_a_column_per_step(tmp_path):
    files = SampleFiles(tmp_path, [CAT, DOG])
    for row, step, rgb in ((0, 0, RED), (1, 0, GREEN), (0, 100, BLUE), (1, 20, RED)):
        files.save(row, step, colour(rgb))
    sheet = files.sheet()  # columns 0, 20, 100
    assert sheet.size == (3 * (TILE + 2 * GAP), LABEL + 2 * (LABEL + TILE + 2 * GAP))
    found = [[middle(sheet, row, column) for column in range(3)] for row in range(2)]
    white = (255, 255, 255)
    assert found == [[RED, white, BLUE], [GREEN, RED, white]]
    files.save_sheet()
    with Image.open(files.folder / "sheet.png") as image:
        assert image.tobytes() == sheet.tobytes()


def test_another_session_goes_on_with_the_same_sheet(tmp_path):
    first = SampleFiles(tmp_path, [CAT, DOG])
    for row, rgb in ((0, RED), (1, GREEN)):
        first.save(row, 0, colour(rgb))
    first.save(0, 100, colour(BLUE))
    second = SampleFiles(tmp_path, [CAT, DOG])
    assert second.missing(0) == [] and second.missing(100) == [1]
    assert second.sheet().tobytes() == first.sheet().tobytes()


def test_prompts_may_move_and_change_between_sessions(tmp_path):
    """Files belong to the prompt that they name; nothing is overwritten."""
    first = SampleFiles(tmp_path, [CAT, DOG])
    first.save(0, 0, colour(RED))
    first.save(1, 0, colour(GREEN))
    new = dataclasses.replace(CAT, seed=1)
    second = SampleFiles(tmp_path, [new, DOG, CAT])
    assert second.missing(0) == [0]
    second.save(0, 0, colour(BLUE))
    assert [middle(second.sheet(), row, 0) for row in range(3)] == [BLUE, GREEN, RED]
    assert names(second) == ["step000000_0.png", "step000000_1.png", "step000000_2.png"]
    assert middle(SampleFiles(tmp_path, [CAT]).sheet(), 0, 0) == RED


def test_a_vanished_file_leaves_its_place_empty(tmp_path, caplog):
    files = SampleFiles(tmp_path, [CAT])
    files.save(0, 0, colour(RED))
    files.save(0, 100, colour(BLUE))
    (files.folder / "step000000_0.png").unlink()
    sheet = files.sheet()
    assert [middle(sheet, 0, column) for column in range(2)] == [(255, 255, 255), BLUE]
    assert "step000000_0.png is left out of the contact sheet" in caplog.text
    sheet = SampleFiles(tmp_path, [CAT]).sheet()
    assert sheet.width == TILE + 2 * GAP and middle(sheet, 0, 0) == BLUE


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"text"])
def test_damaged_and_foreign_files_are_no_samples(tmp_path, content):
    files = SampleFiles(tmp_path, [CAT])
    files.save(0, 0, colour(RED))
    (files.folder / "step000100_0.png").write_bytes(content)
    colour(GREEN).save(files.folder / "step000200_0.png")
    again = SampleFiles(tmp_path, [CAT])
    assert [again.missing(step) for step in (0, 100, 200)] == [[], [0], [0]]
    again.save(0, 100, colour(BLUE))
    assert (files.folder / "step000100_0.png").read_bytes() == content
    assert [middle(again.sheet(), 0, column) for column in range(2)] == [RED, BLUE]


def test_a_truncated_picture_is_left_out(tmp_path):
    files = SampleFiles(tmp_path, [CAT])
    files.save(0, 0, Image.effect_noise((64, 64), 80).convert("RGB"))
    path = files.folder / "step000000_0.png"
    path.write_bytes(path.read_bytes()[:900])
    again = SampleFiles(tmp_path, [CAT])
    assert again.of_step(0) == [] and middle(again.sheet(), 0, 0) == (255, 255, 255)


def test_pictures_of_any_size_fit_their_place(tmp_path):
    files = SampleFiles(tmp_path, [CAT, DOG])
    files.save(0, 5, colour(RED, (640, 320)))
    files.save(1, 5, colour(GREEN, (10, 40)))
    assert [picture.size for picture in files.of_step(5)] == [(256, 128), (64, 256)]
    assert [middle(files.sheet(), row, 0) for row in range(2)] == [RED, GREEN]


def test_long_runs_keep_the_sheet_small(tmp_path):
    """First and last are always among the steps that are shown."""
    files = SampleFiles(tmp_path, [CAT])
    for step in range(MOST_COLUMNS + 9):
        rgb = {0: RED, MOST_COLUMNS + 8: BLUE}.get(step, GREEN)
        files.save(0, step, colour(rgb, (8, 8)))
    tile = tile_size(MOST_COLUMNS, 1)
    sheet = files.sheet()
    assert tile == 64 and sheet.width == MOST_COLUMNS * (tile + 2 * GAP)
    found = [middle(sheet, 0, column, tile) for column in range(MOST_COLUMNS)]
    assert found[0] == RED and found[-1] == BLUE and set(found[1:-1]) == {GREEN}


@pytest.mark.parametrize("count, shape", [(1, (1, 1)), (2, (2, 1)), (3, (2, 2)), (4, (2, 2)), (5, (3, 2))])
def test_the_grid_of_the_newest(count, shape):
    grid = picture_grid([colour((i, 0, 0), (256, 256)) for i in range(count)])
    assert grid.size == (shape[0] * TILE, shape[1] * TILE)
    for i in range(count):
        assert grid.getpixel((i % shape[0] * TILE + 9, i // shape[0] * TILE + 9)) == (i, 0, 0)


def test_words_that_the_font_does_not_have_do_no_harm(tmp_path):
    prompt = SamplePrompt("\u4e00\u53ea\u732b " * 300, "caf\u00e9", width=64)
    files = SampleFiles(tmp_path, [prompt])
    files.save(0, 0, colour(RED))
    assert middle(files.sheet(), 0, 0) == RED
    assert notice("nothing here").size == (640, 60)
