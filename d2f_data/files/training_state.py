"""The complete state of a training run in one safetensors file, bit for bit and without pickle.

A state is what ``state_dict`` methods give: dicts (keys of text or integers), lists, tuples, tensors and scalars, in
each other. The tensors are stored under their paths; the structure around them is JSON in the file's metadata,

    {"dict": [[key, node], ...]}   {"list": [node, ...]}   {"tuple": [node, ...]}
    {"tensor": path}               {"float": bytes in hexadecimal}      and null, true, 1, "text" as they are

with floats by their bytes, so that infinities and NaN survive, too. Beside it lies the configuration of the run, a
flat mapping that a resume is compared with.
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
    """Write a state, whole or not at all.

    Args:
        path: where; replaced if it is there.
        state: of dicts, lists, tuples, tensors and scalars.
        config: settings, and hashes of the data and the model.

    Raises:
        ValueError: the state holds something else; names its place.
        OSError: the file could not be written.
    """
    tensors: dict[str, Tensor] = {}
    structure = _take_apart(state, "state", tensors)
    metadata = {_FORMAT_KEY: str(FORMAT), _STRUCTURE_KEY: json.dumps(structure), _CONFIG_KEY: json.dumps(dict(config))}
    save_tensors(path, tensors, metadata)


def load_state(path: Path) -> tuple[Any, dict[str, Any]]:
    """State and configuration as they were saved; the tensors are on the CPU.

    Raises:
        ValueError: the file is missing, damaged, of a newer version, or not such a file; names it.
    """
    tensors, metadata = load_tensors(path)
    version = metadata.get(_FORMAT_KEY, "")
    if not version.isdecimal():
        raise ValueError(f"{path} is not the state of a training run; choose a state.safetensors of Diff2Flow Kit")
    if int(version) > FORMAT:
        raise ValueError(f"{path} has format {version}, this version reads up to {FORMAT}; update Diff2Flow Kit")
    try:
        config = json.loads(metadata[_CONFIG_KEY])
        return _put_together(json.loads(metadata[_STRUCTURE_KEY]), tensors), config
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete it to start the run from the beginning") from error


def _take_apart(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON of a value; its tensors go into ``tensors``."""
    if isinstance(value, Tensor):
        name = place if place not in tensors else f"{place} {len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_key(key, place), _take_apart(one, f"{place}/{key}", tensors)] for key, one in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_take_apart(one, f"{place}/{i}", tensors) for i, one in enumerate(value)]}
    if isinstance(value, float):
        return {"float": struct.pack("<d", value).hex()}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ValueError(
        f"{place} is a {type(value).__name__}, which cannot be saved without pickle; a state may hold tensors, "
        "numbers, text, None, dicts, lists and tuples"
    )


def _key(key: Any, place: str) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise ValueError(f"{place} has the key {key!r}; keys of a state must be text or integers")


def _put_together(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value of a node: the inverse of ``_take_apart``."""
    if not isinstance(node, dict):
        return node
    [(kind, content)] = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return struct.unpack("<d", bytes.fromhex(content))[0]
    if kind == "dict":
        return {key: _put_together(one, tensors) for key, one in content}
    return {"list": list, "tuple": tuple}[kind](_put_together(one, tensors) for one in content)


def differences(saved_config: Config, wanted_config: Config) -> list[str]:
    """Readable lines, one a setting that differs: ``rank: 16 in the file, 8 wanted``."""
    lines = []
    for name in {**saved_config, **wanted_config}:
        saved, wanted = (config.get(name) for config in (saved_config, wanted_config))
        if not (saved == wanted or (saved != saved and wanted != wanted)):
            lines.append(f"{name}: {_show(saved)} in the file, {_show(wanted)} wanted")
    return lines


def _show(value: Any) -> str:
    """A value, with long fingerprints cut."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else text[:20] + "..."


def check_resumable(path: Path, saved_config: Config, wanted_config: Config) -> None:
    """Refuse to go on with other settings, data or model than a run was saved with.

    Raises:
        ValueError: names the file, every difference and the remedy.
    """
    lines = differences(saved_config, wanted_config)
    if lines:
        raise ValueError(
            f"{path} was saved with other settings, so that going on would not be the same run:\n  "
            + "\n  ".join(lines)
            + "\nset them back to those of the file, or give the run another name to start a new one"
        )
