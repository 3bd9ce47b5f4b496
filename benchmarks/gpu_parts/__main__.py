"""A process that measures parts of `bench gpu`: one row per line on the standard output, as JSON.

The argument is a JSON object {orders: [[part, model], ...], quick, base}; a line {finished: order} ends a part. What
the host prints goes to the standard error.
"""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[0] = str(FOLDER.parent)
from harness import HERE, ROOT, load  # noqa: E402

del sys.path[0]


def main() -> None:
    job = json.loads(sys.argv[1])
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    load("devtools", ROOT / "devtools" / "__init__.py")
    parts = load("gpu_parts", FOLDER / "__init__.py")
    dynamic = [part for part, _ in job["orders"]] == ["patcher"] and parts.begin_dynamic()
    from devtools.pack import enter_host, load_pack

    enter_host(Path(os.environ["COMFYUI_PATH"]), Path(job["base"]))
    load_pack()
    load("bench_shared", HERE / "shared" / "__init__.py")
    load("trainers", HERE / "trainers" / "__init__.py")
    if dynamic:
        parts.finish_dynamic()
    for part, model in job["orders"]:
        for row in measure(parts.MODULES.get(part, part), part, model, job["quick"]):
            print(json.dumps(row), file=rows, flush=True)
        print(json.dumps({"finished": [part, model]}), file=rows, flush=True)


def measure(module: str, part: str, model: str, quick: bool) -> Iterator[dict[str, Any]]:
    """Rows of a part."""
    from gpu_parts.cases import Case, free

    case = Case(part, model, quick)
    for row in importlib.import_module(f"gpu_parts.{module}").rows(case):
        yield case.row(**row)
    free()


if __name__ == "__main__":
    main()
