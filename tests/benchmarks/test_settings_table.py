"""The settings for graphics cards in docs/settings.md are those that `bench gpu` tries, with its figures if any."""

import ast
import json
import re

ROW = re.compile(
    r"\| (?P<cap>\d+) GB[^|]*\| (?P<model>SD1\.5|SDXL), (?P<size>\d+) \| (?P<batch>\d+)[^|]*"
    r"\| (?P<recompute>on|off)[^|]*\| (?P<peak>[\d.]+) GB(?P<how>[^|]*)\|"
)
MODELS = {"SD1.5": "sd15", "SDXL": "sdxl"}


def settings(root):
    """(model, cap in GB, pixels, batch, checkpointing) -> (peak in GB, what the table says of the figure)."""
    text = (root / "docs" / "settings.md").read_text(encoding="utf-8")
    return {
        (MODELS[row["model"]], int(row["cap"]), int(row["size"]), int(row["batch"]), row["recompute"] == "on"): (
            float(row["peak"]), row["how"].strip()
        )
        for row in ROW.finditer(text)
    }  # fmt: skip


def test_every_setting_is_tried_under_its_cap(root):
    tree = ast.parse((root / "benchmarks" / "gpu_parts" / "memory.py").read_text(encoding="utf-8"))
    tried = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and node.target.id == "SETTINGS"
    )
    table = settings(root)
    assert len(table) == 8
    assert table.keys() <= {(model, *one) for model, each in tried.items() for one in each}


def test_what_was_measured_on_a_card_stands_in_the_table(root):
    file = root / "benchmarks" / "results" / "gpu.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    measured = {
        (row["model"], row["cap_gb"], row["size"], row["batch"], row["runner"] == "ours_checkpointing"): row["peak_mb"]
        for row in rows
        if row["part"] == "memory" and row["fits"]
    }
    for setting, (peak, how) in settings(root).items():
        if setting in measured:
            assert how == "(measured)" and abs(peak - measured[setting] / 1024) < 0.06, (setting, measured[setting])
        else:
            assert how == "", f"{setting} was not measured on a card"


def test_the_memory_that_the_readme_gives_stands_in_the_table(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    given = re.findall(r"^\| a LoRA for (SD1\.5|SDXL), (\d+) pixels \|[^|]+\| ([\d.]+) GB \|", text, re.MULTILINE)
    assert len(given) == 2
    table = {(model, size, batch): peak for (model, _, size, batch, _), (peak, _) in settings(root).items()}
    for model, size, peak in given:
        assert table[MODELS[model], int(size), 1] == float(peak)
