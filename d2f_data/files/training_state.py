"""Saves the complete state of a training run in one safetensors file, bit for bit and without pickle.

A state is what ``state_dict`` methods return: nested dicts (with strings or integers as keys), lists, tuples, tensors
and scalars. Tensors are stored under their path in the state; the structure is JSON in the metadata of the file,

    {"dict": [[key, node], ...]}   {"list": [node, ...]}   {"tuple": [node, ...]}
    {"tensor": path}               {"float": bytes in hexadecimal}      and null, true, 1, "text" unchanged

with floats as bytes, so that infinities and NaN are preserved. The metadata also has the configuration of the run, a
flat mapping that must be the same when the run is resumed, and the SHA-256 of all of it: names, types, shapes and bytes
of the tensors, the structure and the configuration. Format 1, of earlier versions, has none.
"""

import json
import logging
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..fingerprints import content_digest, json_digest
from .atomic import load_tensors, read_metadata, save_tensors
from .json_schema import InvalidJsonError, fail, list_of, parse_json, record, row, scalar, text

LOGGER = logging.getLogger("diff2flow")
FORMAT = 2

Config = Mapping[str, str | int | float | bool | None]

CONFIG_RULE = record({}, rest=scalar)
_FORMAT_KEY = "diff2flow.state"
_STRUCTURE_KEY = "diff2flow.structure"
_CONFIG_KEY = "diff2flow.config"
_DIGEST_KEY = "diff2flow.sha256"


def save_state(path: Path, state: Any, config: Config, keep: Path | None = None) -> None:
    """Write a state, completely or not at all.

    Args:
        path: destination; an existing file is replaced.
        state: nested dicts, lists, tuples, tensors and scalars.
        config: settings of the run, and hashes of its data and model.
        keep: path that an existing file is moved to.

    Raises:
        ValueError: the state contains something else; names its path.
        OSError: the file could not be written.
    """
    tensors: dict[str, Tensor] = {}
    structure, configuration = json.dumps(_flatten(state, "state", tensors)), json.dumps(dict(config))
    metadata = {
        _FORMAT_KEY: str(FORMAT),
        _STRUCTURE_KEY: structure,
        _CONFIG_KEY: configuration,
        _DIGEST_KEY: _digest(tensors, structure, configuration),
    }
    save_tensors(path, tensors, metadata, keep)


def load_state(path: Path) -> tuple[Any, dict[str, Any]]:
    """Read a state and its configuration; the tensors are on the CPU.

    Raises:
        ValueError: the file is missing, damaged, from a newer version, or not a training state; names it.
    """
    tensors, metadata = load_tensors(path)
    version = _version(path, metadata)
    config = _config(path, metadata)
    try:
        structure = metadata[_STRUCTURE_KEY]
        state = _unflatten(parse_json(structure, _node), tensors)
    except (KeyError, InvalidJsonError) as error:
        raise _damaged(path, repr(error)) from error
    if version == 1:
        LOGGER.info("%s was saved by an earlier version without a checksum, so it cannot be verified", path)
    elif metadata.get(_DIGEST_KEY) != _digest(tensors, structure, metadata[_CONFIG_KEY]):
        raise _damaged(path, "its content does not match its SHA-256")
    return state, config


def load_config(path: Path) -> dict[str, Any]:
    """The configuration of a state, without its tensors. Raises ValueError as ``load_state`` does."""
    metadata = read_metadata(path)
    _version(path, metadata)
    return _config(path, metadata)


def _version(path: Path, metadata: Mapping[str, str]) -> int:
    version = metadata.get(_FORMAT_KEY, "")
    if not re.fullmatch(r"[1-9]\d{0,8}", version, re.ASCII):
        raise ValueError(f"{path} is not the state of a training run; use a state.safetensors file of Diff2Flow Kit")
    if int(version) > FORMAT:
        raise ValueError(f"{path} has format {version}, but this version reads up to {FORMAT}; update Diff2Flow Kit")
    return int(version)


def _config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        return parse_json(metadata[_CONFIG_KEY], CONFIG_RULE)
    except (KeyError, InvalidJsonError) as error:
        raise _damaged(path, repr(error)) from error


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}); delete it to go on from the previous save, if there is one")


def _digest(tensors: Mapping[str, Tensor], structure: str, config: str) -> str:
    return json_digest([content_digest(tensors), structure, config])


def _node(value: Any, where: str) -> None:
    """Rule of a node of the structure."""
    kind, content = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
    if kind == "tensor":
        text()(content, f"{where}.tensor")
    elif kind == "dict":
        list_of(row(_name, _node))(content, f"{where}.dict")
    elif kind in ("list", "tuple"):
        list_of(_node)(content, f"{where}.{kind}")
    elif kind == "float":
        if not (isinstance(content, str) and re.fullmatch("[0-9a-f]{16}", content)):
            fail(content, f"{where}.float", "16 hexadecimal digits")
    elif isinstance(value, dict | list | float):
        fail(value, where, "one of tensor, dict, list, tuple and float, or null, true, 1 or text")


def _name(value: Any, where: str) -> None:
    """Rule of a key of a dict."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        fail(value, where, "text or a whole number")


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
