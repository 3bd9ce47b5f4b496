"""The pack's nodes for ComfyUI: a room per topic, a node per file.

Node files unwrap their inputs, call ``d2f_core`` and ``d2f_data``, and wrap the result; they do not import each other.
``widgets`` holds the widgets that several rooms share, ``fingerprints`` the hashes, and ``host`` is the only room that
touches ComfyUI's internals.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from comfy_api.latest import ComfyExtension, io


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    """All modules in a package and in the packages inside it."""
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        if found.ispkg:
            yield from _modules(module)
        else:
            yield module


def find_nodes() -> list[type[io.ComfyNode]]:
    """The node classes that the files of this package define, by name."""
    found = [
        cls
        for module in _modules(importlib.import_module(__name__))
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, io.ComfyNode) and cls.__module__ == module.__name__
    ]
    return sorted(found, key=lambda cls: cls.__name__)


class Diff2FlowExtension(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return find_nodes()
