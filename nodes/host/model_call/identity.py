"""A hash of what nodes have put on a MODEL and on CONDITIONINGs: whether a teacher is still the same one.

Functions count by name, defaults and what they have captured; networks by a sample of their weights; other objects by
their attributes. What cannot be looked into gets a hash that never recurs.
"""

import enum
import functools
import hashlib
import types
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ....d2f_data.fingerprints import weights_fingerprint
from ..image_condition import ENTRY_KEY
from ..model import flow_settings
from .captions import extras_of
from .patches import names_of, patches_of

_DEPTH = 16
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, enum.Enum)
# What a ControlNet is, apart from what it keeps while it runs.
_CONTROL = ("strength", "timestep_percent_range", "cond_hint_original", "compression_ratio", "extra_args",
            "global_average_pooling", "strength_type", "control_model", "t2i_model", "previous_controlnet")  # fmt: skip


def identity_of(model: Any, conditionings: Iterable[Any]) -> dict[str, str]:
    """Names and a hash each: "patches" of a MODEL, "conditioning" of what CONDITIONINGs hold besides text.

    Args:
        model: MODEL.
        conditionings: CONDITIONINGs of a sampling run.

    Returns:
        {} for a plain model and plain texts.
    """
    found, patches = {}, patches_of(model)
    if patches:
        found["patches"] = f"{', '.join(names_of(model))} {_hash(patches, model)}"
    entries = [entry for conditioning in conditionings for entry in _extra_entries(conditioning)]
    if entries:
        names = sorted({name for _, options in entries for name in extras_of(options)}) or ["several entries"]
        found["conditioning"] = f"{', '.join(names)} {_hash([entries, flow_settings(model)], model)}"
    return found


def _extra_entries(conditioning: Any) -> list[Any]:
    """The entries that are more than one text; all of them where the host combines several."""
    return [
        [cross, {name: value for name, value in options.items() if name != "model_conds"}]
        for cross, options in conditioning
        if len(conditioning) > 1 or extras_of(options) or ENTRY_KEY in options
    ]


def _hash(value: Any, model: Any) -> str:
    digest = _Digest(model)
    digest.add(value)
    return digest.hash.hexdigest()[:16]


class _Digest:
    """SHA-256 over nested Python objects; the network that the MODEL shares is known otherwise."""

    def __init__(self, model: Any) -> None:
        self.hash = hashlib.sha256()
        self._seen = {id(model): "model", **{id(part): "model" for part in model.model.modules()}}
        self._kept: list[Any] = []  # kept alive, as ids may be used again

    def add(self, value: Any, depth: int = 0) -> None:
        """Add a value of any type."""
        self._write(type(value).__qualname__)
        if isinstance(value, _PLAIN):
            self._write(repr(value))
        elif isinstance(value, uuid.UUID):
            pass  # drawn anew every time
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif id(value) in self._seen:
            self._write(self._seen[id(value)])
        elif depth > _DEPTH:
            self._unknown()
        else:
            self._seen[id(value)] = str(len(self._seen))
            self._kept.append(value)
            self._inside(value, depth + 1)

    def _inside(self, value: Any, depth: int) -> None:
        if isinstance(value, Mapping):
            for key, inner in sorted(value.items(), key=lambda item: str(item[0])):
                self.add(str(key))
                self.add(inner, depth)
        elif isinstance(value, list | tuple):
            for inner in value:
                self.add(inner, depth)
        elif isinstance(value, set | frozenset):
            self.add(sorted(map(str, value)))
        elif isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
            self._write(f"{getattr(value, '__module__', '')}.{value.__name__}")
        elif isinstance(value, nn.Module):
            self._write(weights_fingerprint(value))
        else:
            self.add(self._parts(value), depth)

    def _parts(self, value: Any) -> Any:
        """What a function or an object is made of."""
        if isinstance(value, functools.partial):
            return [value.func, value.args, value.keywords]
        if isinstance(value, types.MethodType):
            return [value.__func__, value.__self__]
        if isinstance(value, types.FunctionType):
            return [f"{value.__module__}.{value.__qualname__}", value.__defaults__, value.__kwdefaults__,
                    [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]]  # fmt: skip
        if hasattr(value, "original_forward"):  # a bypass LoRA on a layer
            return [value.multiplier, _as_on_layer(value.adapter, value.module)]
        if hasattr(value, "cond_hint_original"):
            return {name: getattr(value, name, None) for name in _CONTROL}
        if hasattr(value, "model_options") and hasattr(value, "patches"):  # another MODEL
            return [value.model, value.patches, value.model_options]
        if hasattr(value, "weights") and hasattr(value, "loaded_keys"):  # a LoRA's layer
            return value.weights
        if hasattr(value, "__dict__"):
            return vars(value)
        self._unknown()
        return None

    def _tensor(self, tensor: Tensor) -> None:
        self._write(f"{tensor.dtype} {tuple(tensor.shape)}")
        plain = tensor.dequantize() if type(tensor) not in (Tensor, nn.Parameter) else tensor
        self.hash.update(plain.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())

    def _unknown(self) -> None:
        self._write(uuid.uuid4().hex)

    def _write(self, text: str) -> None:
        self.hash.update(f"{text};".encode())


def _as_on_layer(adapter: Any, layer: nn.Module) -> list[Any]:
    """An adapter's weights in the type that the host casts them to, once, when it loads them."""
    dtype = getattr(getattr(layer, "weight", None), "dtype", None)
    weights = adapter.weights if isinstance(adapter.weights, list | tuple) else [adapter.weights]
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return [type(adapter).__qualname__, *weights]
    return [type(adapter).__qualname__, *(one.to(dtype) if isinstance(one, Tensor) else one for one in weights)]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
