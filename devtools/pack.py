"""Import the pack as the package `diff2flow_kit`, and what pip installs under its own names, without `sys.path`.

ComfyUI imports a node pack by its path, under a name of its own. Tests and benchmarks do the same
here. `d2f_core` is another name of `diff2flow_kit.d2f_core`: the same modules, the same classes, and
importing it does not run the pack's `__init__.py`, so that it needs no ComfyUI. So are `d2f_data` and `d2f_diffusers`.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from .paths import ROOT

NAME = "diff2flow_kit"
ALONE = ("d2f_core", "d2f_data", "d2f_diffusers")


class Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `d2f_core[.x]` as `diff2flow_kit.d2f_core[.x]`, and the others of `ALONE` likewise."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        mine = fullname.partition(".")[0] in ALONE
        return importlib.util.spec_from_loader(fullname, self) if mine else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{NAME}.{spec.name}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # the import system has put the alias's there


def register() -> ModuleType:
    """Make `diff2flow_kit.*` and the names in `ALONE` importable; the pack's `__init__.py` does not run yet."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        sys.meta_path.insert(0, Alias())
    return sys.modules[NAME]


def load_pack() -> ModuleType:
    """The whole pack, its `__init__.py` run once. A host must be importable (`enter_host`)."""
    module = register()
    if not hasattr(module, "WEB_DIRECTORY"):
        assert module.__spec__ is not None and module.__spec__.loader is not None
        module.__spec__.loader.exec_module(module)
    return module


def enter_host(path: Path, base: Path | None = None) -> None:
    """Make the ComfyUI at `path` importable here; what it writes goes to `base` (a new folder if None).

    Call it before anything imports `comfy`. The CPU is chosen where there is no accelerator, as
    `comfy` reads that when it is first imported.
    """
    if str(path) in sys.path:
        return
    sys.path.insert(0, str(path))
    import torch

    args = importlib.import_module("comfy.cli_args").args
    args.base_directory = str(base or tempfile.mkdtemp(prefix="d2f-"))
    mps = getattr(torch.backends, "mps", None)
    args.cpu = not (torch.cuda.is_available() or (mps is not None and mps.is_available()))
