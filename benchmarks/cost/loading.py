"""What loading the pack adds to the start of ComfyUI: its import, where the host is loaded already.

Every import is a whole one, under a name of its own, as ComfyUI gives every pack one. Other programs add to the seconds
on the wall, so their least counts, and of the processor's the median.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="once; the committed results are left alone")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    import nodes  # noqa: F401  ComfyUI's own, which every pack finds loaded

    times = [load(f"loading_{number}") for number in range(1 if options.quick else options.rounds)]
    wall, processor = zip(*times)
    modules = sum(name.startswith("loading_0") for name in sys.modules)
    return [{"seconds": round(min(wall), 3), "cpu_seconds": round(median(processor), 3), "modules": modules}]


def load(name: str) -> tuple[float, float]:
    """Seconds on the wall and of the processor for one import, with the list of nodes that ComfyUI asks for."""
    import asyncio

    start, cpu_start = time.perf_counter(), time.process_time()
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    async def listed() -> list[Any]:
        return await (await module.comfy_entrypoint()).get_node_list()

    asyncio.run(listed())
    return time.perf_counter() - start, time.process_time() - cpu_start
