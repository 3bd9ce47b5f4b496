"""Write `tests/host/schemas.json` and `locales/en` from the nodes as they are.

    python dev.py python -m devtools.snapshot

Run it after a change of a node's inputs, outputs or words, and translate what is new in `locales/zh`. A change that
graphs out there would not survive is refused.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .console import DevError, say
from .pack import enter_host, load_pack
from .paths import ROOT
from .schemas import breaks, describe, load
from .words import english

SNAPSHOT = ROOT / "tests" / "host" / "schemas.json"
LOCALES = ROOT / "locales"
COMMAND = "python dev.py python -m devtools.snapshot"


def text(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(schemas: Mapping[str, Any], root: Path = ROOT) -> None:
    """Write all files under `root`; nothing if saved graphs would break."""
    snapshot, words = root / SNAPSHOT.relative_to(ROOT), root / LOCALES.relative_to(ROOT) / "en"
    described = {node: describe(schema) for node, schema in schemas.items()}
    found = breaks(read(snapshot) if snapshot.exists() else {}, described)
    if found:
        raise DevError("\n".join(["Saved graphs would not open any more:", *found]))
    files = {snapshot: described} | {words / name: tree for name, tree in english(schemas).items()}
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(data), encoding="utf-8")
        say(f"wrote {path.relative_to(root)}")


def main() -> None:
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != ROOT]  # its `nodes` is not ComfyUI's
    enter_host(Path(os.environ["COMFYUI_PATH"]))
    schemas = load(load_pack())
    write(schemas)


if __name__ == "__main__":
    try:
        main()
    except DevError as error:
        sys.exit(str(error))
