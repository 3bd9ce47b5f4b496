"""The command ``diff2flow``.

diff2flow export-demo DIR     write the demo model as a diffusers pipeline
    diff2flow pairs ...           python -m d2f_diffusers.pairs in one process
    diff2flow train ...           python -m d2f_diffusers.train in one process; see its --help
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from d2f_core import install_command


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="diff2flow", description="Diff2Flow outside ComfyUI.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    export = commands.add_parser("export-demo", help="write the demo model as a diffusers pipeline")
    export.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    commands.add_parser("train", help="train a LoRA, or all weights, in this process", add_help=False)
    commands.add_parser("pairs", help="make reflow pairs in this process", add_help=False)
    return top


def run(options: argparse.Namespace) -> None:
    """Do what a command line asks for."""
    from .demo_model import export_demo

    print(f"the demo model is in {export_demo(options.folder)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line; what the user can repair is said in a sentence."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["train"], ["pairs"]):
        module = import_module({"train": ".train.__main__", "pairs": ".pairs"}[words[0]], __package__)
        return int(module.main(words[1:]))
    options = parser().parse_args(words)
    try:
        run(options)
    except ModuleNotFoundError as error:
        print(f"diff2flow: {error}; run {install_command('diff2flow-kit[train]')}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"diff2flow: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
