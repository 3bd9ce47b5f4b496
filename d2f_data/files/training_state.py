"""Saves the complete state of a training run in one safetensors file, bit for bit and without pickle.

A state is what ``state_dict`` methods return: nested dicts (with strings or integers as keys), lists, tuples, tensors
and scalars. Tensors are stored under their path in the state; the structure is JSON in the metadata of the file,

    {"dict": [[key, node], ...]}   {"list": [node, ...]}   {"tuple": [node, ...]}
    {"tensor": path}               {"float": bytes in hexadecimal}      and null, true, 1, "text" unchanged

with floats as bytes, so that infinities and NaN are preserved. The metadata also has the configuration of the run, a
flat mapping that must be the same when the run is resumed.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .atomic import load_tensors, save_tensors

FORMAT = 1

Config = Mapping[str, str | int | float | bool | None]

_FORMAT_KEY = "diff2flow.state"
_STRUCTURE_KEY = "diff2flow.structure"
_CONFIG_KEY = "diff2flow.config"


def save_state(path: Path, state: Any, config: Config) -> None:
    """Write a state, completely or not at all.

    Args:
        path: destination; an existing file is replaced.
        state: nested dicts, lists, tuples, tensors and scalars.
        config: settings of the run, and hashes of its data and model.

    Raises:
        ValueError: the state contains something else; names its path.
        OSError: the file could not be written.
    """
    tensors: dict[str, Tensor] = {}
    structure = _flatten(state, "state", tensors)
    metadata = {_FORMAT_KEY: str(FORMAT), _STRUCTURE_KEY: json.dumps(structure), _CONFIG_KEY: json.dumps(dict(config))}
    save_tensors(path, tensors, metadata)


def load_state(path: Path) -> tuple[Any, dict[str, Any]]:
    """Read a state and its configuration; the tensors are on the CPU.

    Raises:
        ValueError: the file is missing, damaged, from a newer version, or not a training state; names it.
    """
    tensors, metadata = load_tensors(path)
    version = metadata.get(_FORMAT_KEY, "")
    if not version.isdecimal():
        raise ValueError(f"{path} is not the state of a training run; use a state.safetensors file of Diff2Flow Kit")
    if int(version) > FORMAT:
        raise ValueError(f"{path} has format {version}, but this version reads up to {FORMAT}; update Diff2Flow Kit")
    try:
        config = json.loads(metadata[_CONFIG_KEY])
        return _unflatten(json.loads(metadata[_STRUCTURE_KEY]), tensors), config
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete it to restart the run from the beginning") from error


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON structure of a value; its tensors are added to ``tensors``."""
    if isinstance(value, Tensor):
        name = path if path not in tensors else f"{path} {len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_key(key, path), _flatten(one, f"{path}/{key}", tensors)] for key, one in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(one, f"{path}/{i}", tensors) for i, one in enumerate(value)]}
    if isinstance(value, float):
        return {"float": struct.pack("<d", value).hex()}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ValueError(
        f"{path} is a {type(value).__name__}, which cannot be saved without pickle; a state may hold tensors, "
        "numbers, text, None, dicts, lists and tuples"
    )


def _key(key: Any, path: str) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise ValueError(f"{path} has the key {key!r}; keys of a state must be text or integers")


def _unflatten(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value of a node: the inverse of ``_flatten``."""
    if not isinstance(node, dict):
        return node
    [(kind, content)] = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return struct.unpack("<d", bytes.fromhex(content))[0]
    if kind == "dict":
        return {key: _unflatten(one, tensors) for key, one in content}
    return {"list": list, "tuple": tuple}[kind](_unflatten(one, tensors) for one in content)


def differences(saved_config: Config, wanted_config: Config) -> list[str]:
    """One line per setting that differs: ``rank: 16 in the file, 8 wanted``."""
    lines = []
    for name in {**saved_config, **wanted_config}:
        saved, wanted = (config.get(name) for config in (saved_config, wanted_config))
        if not (saved == wanted or (saved != saved and wanted != wanted)):
            lines.append(f"{name}: {_shorten(saved)} in the file, {_shorten(wanted)} wanted")
    return lines


def _shorten(value: Any) -> str:
    """A value as text; long fingerprints are shortened."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else text[:20] + "..."


def check_resumable(path: Path, saved_config: Config, wanted_config: Config) -> None:
    """Check that a run is resumed with the settings, data and model that it was saved with.

    Raises:
        ValueError: something differs; lists all differences.
    """
    lines = differences(saved_config, wanted_config)
    if lines:
        raise ValueError(
            f"{path} was saved with other settings, so resuming it would not continue the same run:\n  "
            + "\n  ".join(lines)
            + "\nrestore the settings of the file, or change run_name to start a new run"
        )
