"""What the quick runs of benchmarks share; a test file names its own in `BENCHMARK`."""

import argparse
import importlib
import importlib.util
import sys

import pytest


@pytest.fixture(scope="module")
def benchmark(request, pack, root):
    """The file `benchmarks/<BENCHMARK>.py` (`evidence/NAME`), imported beside the host, as the harness does it."""
    name, folder = request.module.BENCHMARK, root / "benchmarks"
    load_shared(root)
    return load(f"benchmark_{name.rpartition('/')[2]}", folder / f"{name}.py")


@pytest.fixture(scope="module")
def shared(pack, root):
    """Import of a module of `benchmarks/shared` by its name."""
    load_shared(root)
    return lambda name: importlib.import_module(f"bench_shared.{name}")


def load_shared(root):
    folder = root / "benchmarks" / "shared"
    load("bench_shared", folder / "__init__.py", [str(folder)])


def load(name, file, package=None):
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=package)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def options(benchmark, tmp_path_factory):
    """Its options for a quick run."""
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return parser.parse_args(["--quick", "--work", str(tmp_path_factory.mktemp("work"))])
