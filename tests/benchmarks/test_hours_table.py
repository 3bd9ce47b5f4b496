"""The hours in docs/settings.md and in the README follow from counted operations and what the workflows are set to."""

import importlib.util
import json
import re

ROW = re.compile(
    r"^\| `([\w ]+)`(?:, (?:the|with) (\w+))? \| [^|]+ \| ([\d,]+) \| ([\d.]+ (?:min|h)) \|$", re.MULTILINE
)
RATE = 10  # TFLOP/s, as both pages say
FORWARDS = {False: 2, True: 3}  # per item of a training step, by checkpointing


def forward(root, part):
    """TFLOP of one forward pass of the model, as `bench scale` counted them."""
    model = "SDXL, 1024" if part == "SDXL" else "SD1.5, 512"
    rows = json.loads((root / "benchmarks" / "results" / "scale.json").read_text(encoding="utf-8"))["rows"]
    [row] = [row for row in rows if (row["row"], row["model"], row.get("processes")) == ("LoRA", model, 1)]
    return row["TFLOP"] / row["items"] / FORWARDS[False]


def inputs(root, workflow, node):
    prompt = json.loads((root / "devtools" / "prompts" / f"{workflow}.json").read_text(encoding="utf-8"))
    [found] = [each["inputs"] for each in prompt.values() if each["class_type"] == node]
    return found


def preset(root, workflow):
    """Settings of the preset of a workflow that count here."""
    path = root / "nodes" / "training" / "options" / "presets.py"
    spec = importlib.util.spec_from_file_location("presets", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options = module.PRESETS[inputs(root, workflow, "D2FTrainerPreset")["preset"]].options
    return {"accumulation": 1, "checkpointing": False, **options}


def operations(root, workflow, part):
    """TFLOP of making the pairs of a workflow, or of its training."""
    if part == "pairs":
        pairs = inputs(root, workflow, "D2FReflowPairs")
        assert pairs["solver"] == "euler" and pairs["cfg"] != 1
        return pairs["count"] * pairs["steps"] * 2 * forward(root, part)
    run = {**inputs(root, workflow, "D2FTrainLora"), **preset(root, workflow)}
    items = run["steps"] * run["batch_size"] * run["accumulation"]
    return items * FORWARDS[run["checkpointing"] or part == "SDXL"] * forward(root, part)


def table(root):
    text = (root / "docs" / "settings.md").read_text(encoding="utf-8")
    assert f"{RATE} TFLOP/s" in text
    return ROW.findall(text)


def test_the_table_follows_from_what_was_counted(root):
    rows = table(root)
    assert len(rows) == 5
    for workflow, part, tera, duration in rows:
        expected = operations(root, workflow, part)
        assert abs(int(tera.replace(",", "")) - expected) <= 50, (workflow, part, expected)
        hours = expected / RATE / 3600
        right = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"
        assert duration == right, (workflow, part)


def test_the_readme_says_the_same(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    assert f"{RATE} TFLOP/s" in text
    for workflow, part, _, duration in table(root):
        rows = re.findall(rf"^\|[^|]+\| `{workflow}` \|.*$", text, re.MULTILINE)
        [row] = [row for row in rows if ("SDXL" in row) == (part == "SDXL")]
        assert re.search(rf"\b{re.escape(duration)}\b", row), (workflow, duration)
    assert len(re.findall(r"\d (?:min|h)\b", text.split("## What it costs")[1].split("##")[0])) == len(table(root))
