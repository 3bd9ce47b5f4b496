"""The settings for graphics cards in docs/settings.md are those that `bench gpu` tries, with its figures if any."""

import ast
import importlib
import importlib.util
import json
import re
import sys

import pytest

ROW = re.compile(
    r"\| (?P<cap>\d+) GB[^|]*\| (?P<model>SD1\.5|SDXL), (?P<size>\d+) \| (?P<batch>\d+)[^|]*"
    r"\| (?P<how>on, offload|on|off)[^|]*\| (?P<peak>[\d.]+) GB(?P<source>[^|]*)\|"
)
MODELS = {"SD1.5": "sd15", "SDXL": "sdxl"}
HOW = {"off": "plain", "on": "checkpointing", "on, offload": "checkpointing, offload"}
RUNNERS = {"ours": "plain", "ours_checkpointing": "checkpointing", "ours_offload": "checkpointing, offload"}


def settings(root):
    """(model, cap in GB, pixels, batch, how) -> (peak in GB, what the table says of the figure)."""
    text = (root / "docs" / "settings.md").read_text(encoding="utf-8")
    return {
        (MODELS[row["model"]], int(row["cap"]), int(row["size"]), int(row["batch"]), HOW[row["how"]]): (
            float(row["peak"]), row["source"].strip()
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
    assert len(table) == 10
    assert table.keys() <= {(model, *one) for model, each in tried.items() for one in each}


def test_what_was_measured_on_a_card_stands_in_the_table(root):
    file = root / "benchmarks" / "results" / "gpu.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    measured = {
        (row["model"], row["cap_gb"], row["size"], row["batch"], RUNNERS[row["runner"]]): row["peak_mb"]
        for row in rows
        if row["part"] == "memory" and row["fits"]
    }
    for setting, (peak, source) in settings(root).items():
        if setting in measured:
            assert source == "(measured)" and abs(peak - measured[setting] / 1024) < 0.06, (setting, measured[setting])
        else:
            assert source == "", f"{setting} was not measured on a card"


def test_the_memory_that_the_readme_gives_stands_in_the_table(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    given = re.findall(r"^\| a LoRA for (SD1\.5|SDXL), (\d+) pixels \|[^|]+\| ([\d.]+) GB \|", text, re.MULTILINE)
    assert len(given) == 2
    table = {
        (model, size, batch): peak
        for (model, _, size, batch, how), (peak, _) in settings(root).items()
        if "offload" not in how
    }
    for model, size, peak in given:
        assert table[MODELS[model], int(size), 1] == float(peak)


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", [("sd15", 8, 512, 4, "plain"), ("sdxl", 8, 1024, 1, "checkpointing"),
                ("sdxl", 6, 1024, 1, "checkpointing, offload")], ids=str,
)  # fmt: skip
def test_the_figures_are_what_is_counted(pack, root, setting):
    folder = root / "benchmarks"
    for name, room in (("bench_shared", "shared"), ("trainers", "trainers"), ("gpu_parts", "gpu_parts")):
        if name not in sys.modules:
            load(name, folder / room / "__init__.py")
    counted, cases = (importlib.import_module(f"gpu_parts.{name}") for name in ("counted", "cases"))
    model, _, size, batch, how = setting
    case = cases.Case("memory", model, quick=False, batch=batch, pixels=size)
    found = counted.counted_gb(case, "checkpointing" in how, "offload" in how)
    assert abs(found - settings(root)[setting][0]) < 0.06


def load(name, file):
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
