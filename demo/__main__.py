"""Command line of the demo folder: `python demo COMMAND ...`; the only file that names the package.

The repository is itself a package (under ComfyUI's custom_nodes), and its root must not be on sys.path,
where its `nodes` folder would shadow ComfyUI's nodes.py. So the folder is loaded from its path as the
package `d2f_demo`, and each command is the module of the same name in it.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

COMMANDS = (
    "make_tokenizer",
    "train_vae",
    "train_reader",
    "make_latents",
    "train_unet",
    "train_twin",
    "evaluate",
    "world.make_pool",
    "world.train_vae",
    "world.make_latents",
    "world.train_reader",
    "world.train_text",
    "world.evaluate",
)


def load_package(folder: Path, name: str = "d2f_demo") -> ModuleType:
    """Import the folder as the package `name`, once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def main() -> None:
    """Run the command that the first argument names, with the remaining arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        raise SystemExit(f"usage: python demo {{{','.join(COMMANDS)}}} [--help]")
    folder = Path(__file__).resolve().parent
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != folder]
    load_package(folder)
    importlib.import_module(f"d2f_demo.{sys.argv[1]}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
