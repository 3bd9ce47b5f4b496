"""A quick run of `bench windows`: every model gives its rows, and the table says what windows and a finish gain."""

import json

import pytest
import torch

BENCHMARK = "windows"
COLUMNS = {"model", "nfe", "cfg", "seed", "distance", "accuracy", "frechet", "frechet_teacher"}

pytestmark = [pytest.mark.host, pytest.mark.slow]


@pytest.fixture(scope="module")
def rows(benchmark, options):
    import folder_paths

    threads, output = torch.get_num_threads(), folder_paths.get_output_directory()
    yield list(benchmark.run(options))
    assert folder_paths.get_output_directory() == output
    torch.set_num_threads(threads)


def test_there_is_a_row_for_each_model_windows_and_nfe(rows):
    found = [(row["model"], row.get("windows"), row["nfe"]) for row in rows]
    students = [
        ("reflow", 1),
        ("reflow", 4),
        ("reflow_long", 1),
        ("few_steps", 1),
        ("finish", 4),
        ("reflow_diffusion", 4),
        ("online", 4),
    ]
    assert found[0] == ("teacher", None, 16)
    assert found[1:5] == [("ddim", None, 1), ("converted", None, 1), ("ddim", None, 4), ("converted", None, 4)]
    assert found[5:] == [(name, windows, nfe) for name, windows in students for nfe in (1, 4)]
    for row in rows:
        assert row.keys() >= COLUMNS and (row["distance"] == 0) == (row["model"] == "teacher")
        assert (row.get("straightness") or 0) > 0 or row["model"] in ("teacher", "ddim")


def test_no_two_students_are_the_same(rows):
    distances = [row["distance"] for row in rows if row.get("rank") and row["nfe"] == 4]
    assert len(set(distances)) == len(distances) == 7


def test_the_table_names_the_gains_and_nothing_is_missing(benchmark, rows):
    text = benchmark.markdown(rows)
    assert "| reflow | 4 | 4 | 4 |" in text and "| finish | 4 | 4 | 1 |" in text and "nan" not in text
    assert "- rank 4: 4 windows at 4 steps are" in text and "- finish after 4 windows, 1 steps: " in text
    assert json.dumps(rows)


def test_chords_of_online_windows_begin_at_noised_latents(benchmark):
    """A teacher whose velocity is one number moves each start by that times the length of a window."""
    import sys

    online = sys.modules["bench_shared.online"]
    starts, moved = torch.randn(3, 4, 2, 2, 2), 1.5
    batch = online.Chords(starts[:, 0], None, eps=starts[:, 0], waypoints=torch.cat([starts, starts + moved / 4], 1))
    t = torch.tensor([0.1, 0.5, 0.99], dtype=torch.float64)
    pair = batch.on_path(batch.eps, t)
    assert batch.windows == 4
    torch.testing.assert_close(pair.x0 - pair.eps, torch.full((3, 2, 2, 2), moved), rtol=1e-5, atol=1e-5)
    for row, window in enumerate((0, 2, 3)):
        wanted = starts[row, window] + moved * (t[row].item() - window / 4)
        torch.testing.assert_close(pair.x_fm[row], wanted, rtol=1e-5, atol=1e-5)
