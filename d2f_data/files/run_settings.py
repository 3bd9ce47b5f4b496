"""The folders of training runs with one name, and the settings in them, by which a run is recognised.

``settings.json`` holds the configuration of the run and its name without the number. Earlier versions left the name
out; and where the settings are lost, the configuration is that of the saved state.
"""

import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .atomic import atomic_write, make_folder, missing_folders, remove_empty
from .json_schema import InvalidJsonError, parse_json
from .training_state import CONFIG_RULE, load_config

LOGGER = logging.getLogger("diff2flow")

SETTINGS, STATE, PREVIOUS = "settings.json", "state.safetensors", "state.previous.safetensors"

Config = Mapping[str, str | int | float | bool | None]

_NAME = "run_name"
"""Key of the name, without a number, in settings.json."""


def create_run(base: Path, config: Config) -> Path:
    """Create the folder of a new run with its settings, one that nobody else creates at the same time.

    Args:
        base: the folder of the first run with this name.
        config: configuration of the run.
    """
    missing = missing_folders(base.parent)
    make_folder(base.parent)
    while True:
        path = _next(base)
        try:
            path.mkdir()
            break
        except FileExistsError as error:
            if not path.is_dir():
                raise ValueError(f"{path} is a file, but the training run needs a folder; change run_name") from error
    try:
        _write(path, base.name, config)
    except BaseException:
        remove_empty([path, *missing])
        raise
    return path


def _write(run: Path, name: str, config: Config) -> None:
    text = json.dumps({**config, _NAME: name}, indent=2, sort_keys=True)
    atomic_write(run / SETTINGS, lambda file: file.write_text(text, encoding="utf-8"))


def repair_settings(run: Path, name: str, config: Config) -> None:
    """Write the settings of a run again if they are lost."""
    try:
        _read(run)
    except (OSError, InvalidJsonError):
        _write(run, name, config)


def find_runs(base: Path) -> list[Path]:
    """Folders of all runs with a name, sorted by number; ``base`` is that of the first one."""
    return [path for path in _numbered(base) if path == base or _belongs(path, base)]


def _belongs(run: Path, base: Path) -> bool:
    """Whether a numbered folder may be of this name: it says so, is of an earlier version, or has lost its settings.

    In doubt the configuration decides, as only a run with an equal one is resumed.
    """
    try:
        name = _read(run).get(_NAME)
    except (OSError, InvalidJsonError):
        return True
    return name == base.name or (name is None and base.is_dir() and not _says_its_name(base))


def _says_its_name(run: Path) -> bool:
    try:
        return _NAME in _read(run)
    except (OSError, InvalidJsonError):
        return False


def _numbered(base: Path) -> list[Path]:
    """All folders that are named like a run with this name, sorted by number."""
    numbered = re.compile(re.escape(base.name) + r"(?:_(\d{5,}))?")
    existing = base.parent.iterdir() if base.parent.is_dir() else ()
    found = [
        (int(match[1] or 1), path) for path in existing if (match := numbered.fullmatch(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]


def _next(base: Path) -> Path:
    """The folder of a new run: numbered after all that are named like it, unless those are runs of other names."""
    existing = _numbered(base)
    if not find_runs(base) and all(map(_says_its_name, existing)):
        return base
    last = existing[-1].name[len(base.name) + 1 :]
    return base.with_name(f"{base.name}_{int(last or 1) + 1:05}")


def _read(run: Path) -> dict[str, Any]:
    return parse_json((run / SETTINGS).read_bytes(), CONFIG_RULE)


def read_config(run: Path) -> dict[str, Any]:
    """The configuration of a run: that of its settings or, if these are lost, of its states; empty if there is none.

    Raises:
        ValueError: the settings are damaged, and no state has them; names the file.
    """
    try:
        return {key: value for key, value in _read(run).items() if key != _NAME}
    except (OSError, InvalidJsonError) as error:
        fault = error
    for path in (run / STATE, run / PREVIOUS):
        with suppress(ValueError):
            config = load_config(path)
            LOGGER.warning("%s cannot be read (%s); the settings are taken from %s", run / SETTINGS, fault, path.name)
            return config
    if isinstance(fault, FileNotFoundError):
        return {}
    raise ValueError(
        f"{run / SETTINGS} cannot be read ({fault}); remove the folder {run}, or change run_name"
    ) from fault
