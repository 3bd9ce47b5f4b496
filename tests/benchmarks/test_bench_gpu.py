"""`bench gpu --quick` sends the demo model through every part on the CPU, and keeps what it has measured."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.host, pytest.mark.slow]

RUNNERS = {
    "sampler": {"bare", "stock", "ours"},
    "trainer": {"bare", "ours", "ours_offload"},
    "memory": {"ours", "ours_checkpointing", "ours_offload"},
    "pairs": {"sampling", "pairs"},
    "stock": {"stock", "stock_bypass"},
    "demo": {"ours", "ours_on_cpu"},
}


@pytest.fixture(scope="module")
def rows(root, host_path):
    command = [sys.executable, str(root / "benchmarks" / "harness.py"), "gpu", "--quick"]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads((root / ".d2f" / "benchmarks" / "gpu.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("part", RUNNERS)
def test_every_part_has_its_rows(rows, part):
    mine = [row for row in rows if row["part"] == part]
    assert {row["runner"] for row in mine} == RUNNERS[part]
    for row in mine:
        assert row["model"] == "demo" and row["device"] == "cpu" and row["size"] == 96
        if part != "demo":
            assert row["steps_per_s"] > 0
        assert ("accuracy" in row) == (part == "demo")
        assert ("cap_gb" in row and row["fits"]) or part != "memory"


def test_our_trainer_is_measured_against_what_the_device_can_do(rows):
    assert all(0 < row["mfu"] < 1 for row in rows if row["part"] == "trainer")


def test_the_patchers_are_compared_check_by_check(rows):
    """On the CPU both are the plain one, so that every difference is a fault of the comparison."""
    checks = [row for row in rows if row["part"] == "patcher"]
    assert len(checks) == 10 and all(row["equal"] == 0 for row in checks)


def test_a_card_is_asked_for(root, host_path):
    command = [sys.executable, str(root / "benchmarks" / "harness.py"), "gpu"]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)
    assert result.returncode != 0 and "bench gpu --quick` runs on the CPU" in result.stderr


def test_what_was_measured_is_kept_and_what_is_missing_comes_next(benchmark, tmp_path):
    kept = benchmark.Kept(tmp_path / "rows.json", forget=False)
    row = {"part": "sampler", "model": "sd15", "runner": "ours", "steps_per_s": 1.0}
    kept.add("sampler", "sd15", row)
    assert not kept.finished("sampler", "sd15")
    kept.add("sampler", "sd15", {**row, "steps_per_s": 2.0})  # measured again after a cut
    kept.finish("sampler", "sd15")
    again = benchmark.Kept(tmp_path / "rows.json", forget=False)
    assert again.finished("sampler", "sd15") and again.rows("sampler", "sd15") == [{**row, "steps_per_s": 2.0}]
    assert benchmark.Kept(tmp_path / "rows.json", forget=True).rows("sampler", "sd15") == []
    other = json.loads((tmp_path / "rows.json").read_text())
    (tmp_path / "rows.json").write_text(json.dumps({**other, "machine": ["another card"]}))
    assert benchmark.Kept(tmp_path / "rows.json", forget=False).rows("sampler", "sd15") == []


BENCHMARK = "gpu"
