"""Runs one benchmark: `python dev.py bench NAME` calls this in the set-up environment.

A benchmark is a file `NAME.py` here, in `cost/` or in `evidence/` with `run(options) -> rows`, flat dictionaries (a
list, or a generator whose rows are written as they come), and, if it wants, `add_arguments(parser)` and
`plot(rows, axes)`. The
harness prints the rows as a table and writes `results/NAME.json` and, with matplotlib, `results/NAME.png` (or under the
name that `stem(options)` gives); with `--quick`, if the benchmark has that, to `.d2f` of the checkout. A benchmark that
hands on rows of earlier runs says which parts it makes itself, `parts(options)`; the file says of each how it was made.
ComfyUI is importable in benchmarks, the pack is the package `diff2flow_kit`, and the folder `shared` is the package
`bench_shared`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ROOMS = (HERE, HERE / "cost", HERE / "evidence")
"""Folders of benchmarks."""
RESULTS = HERE / "results"
TRIALS = ROOT / ".d2f" / "benchmarks"  # of --quick runs, whose figures mean nothing
Rows = list[dict[str, Any]]


def load(name: str, file: Path) -> ModuleType:
    """Import a file, or a package by its `__init__.py`, under a name of its own."""
    package = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=package)
    assert spec is not None and spec.loader is not None, file
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(arguments: Sequence[str]) -> None:
    sys.path.pop(0)  # this folder; ComfyUI comes first
    load("devtools", ROOT / "devtools" / "__init__.py")
    from devtools.console import say, table
    from devtools.host import read_version
    from devtools.pack import enter_host, load_pack

    host = Path(os.environ["COMFYUI_PATH"])
    enter_host(host)
    load_pack()
    load("bench_shared", HERE / "shared" / "__init__.py")
    name, *rest = arguments
    benchmark = load(f"benchmark_{name}", next(file for room in ROOMS if (file := room / f"{name}.py").is_file()))
    chosen = options(benchmark, name, rest)
    stem = benchmark.stem(chosen) if hasattr(benchmark, "stem") else name
    folder = TRIALS if getattr(chosen, "quick", False) else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"command": " ".join(["python dev.py bench", *arguments]), "host": machine(host)}
    record["versions"] = versions(read_version(host))
    if hasattr(benchmark, "parts"):
        record = {"parts": made(folder / f"{stem}.json", benchmark.parts(chosen), record)}
    record["rows"] = []
    for row in benchmark.run(chosen):  # a list at the end, or rows as they are measured
        record["rows"].append(row)
        write(folder / f"{stem}.json", record)
    say("\n" + table(record["rows"]))
    draw(folder / f"{stem}.png", record["rows"], getattr(benchmark, "plot", None))
    say(f"\nWritten to {folder / stem}.json")


def options(benchmark: ModuleType, name: str, arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"dev.py bench {name}", description=benchmark.__doc__)
    if hasattr(benchmark, "add_arguments"):
        benchmark.add_arguments(parser)
    return parser.parse_args(arguments)


def made(file: Path, parts: Sequence[str], record: dict[str, Any]) -> dict[str, Any]:
    """How each part of a file was made: some as the record says, the others as the file says, if there is one."""
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {**earlier.get("parts", {}), **dict.fromkeys(parts, record)}


def machine(host: Path) -> dict[str, Any]:
    """What it ran on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count(), "gpu": gpu,
            "threads": torch.get_num_threads()}  # fmt: skip


def versions(comfyui: str) -> dict[str, str]:
    """Versions of what the result may depend on."""
    found = {"python": platform.python_version(), "comfyui": comfyui, "diff2flow-kit": pack_version()}
    for name in ("torch", "torchdiffeq", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def pack_version() -> str:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version"))


def write(path: Path, record: dict[str, Any]) -> None:
    """One row a line, so that a change of figures reads well in a diff."""
    head = json.dumps({key: value for key, value in record.items() if key != "rows"}, indent=2)[:-2]
    rows = ",\n".join("    " + json.dumps(row) for row in record["rows"])
    path.write_text(f'{head},\n  "rows": [\n{rows}\n  ]\n}}\n', encoding="utf-8")


def draw(path: Path, rows: Rows, plot: Callable[[Rows, Any], None] | None) -> None:
    """A plot, if the benchmark draws something and matplotlib is there."""
    if plot is None or importlib.util.find_spec("matplotlib") is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    plot(rows, axes)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
