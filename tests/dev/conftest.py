"""What the quick runs of benchmarks share; a test file names its own in `BENCHMARK`."""

import argparse
import importlib.util
import sys

import pytest


@pytest.fixture(scope="module")
def benchmark(request, pack, root):
    """The file `benchmarks/<BENCHMARK>.py`, imported beside the host."""
    name = request.module.BENCHMARK
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", root / "benchmarks" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def options(benchmark, tmp_path_factory):
    """Its options for a quick run."""
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return parser.parse_args(["--quick", "--work", str(tmp_path_factory.mktemp("work"))])
