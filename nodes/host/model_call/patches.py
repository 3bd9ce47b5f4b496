"""What nodes have put on a MODEL besides weights: patches, wrappers, injections, replaced objects, CFG functions."""

from collections.abc import Callable, Iterator
from typing import Any

import comfy.patcher_extension

from ..ve.functions import Placed

_WRAPPERS = comfy.patcher_extension.WrappersMP
# Wrappers around one call of the network; all others belong to a sampling run.
CALL_WRAPPERS = (_WRAPPERS.APPLY_MODEL, _WRAPPERS.DIFFUSION_MODEL)
# Only makes the same call faster, and calls the module that the host shares instead of ours.
COMPILE_KEY = "torch.compile"
BYPASS_KEY = "bypass_lora"
# Options that change no result, and object patches that are known otherwise.
_WITHOUT_EFFECT = ("to_load_options", "torch_compile_kwargs")
_KNOWN = ("model_sampling", "manual_cast_dtype", "concat_keys")
_PACK = __name__.rpartition(".nodes.")[0] + ".nodes."


def patches_of(model: Any) -> dict[str, Any]:
    """What nodes have put on a MODEL besides weights, by the host's own names; {} for a plain one.

    The schedule, what this pack puts on a model, and what changes the speed alone are left out.
    """
    options = dict(model.model_options)
    inner = dict(options.pop("transformer_options", {}))
    found = {
        **options,
        **inner,
        "wrappers": merged_calls(model, "wrappers"),
        "callbacks": merged_calls(model, "callbacks"),
        "object_patches": {path: value for path, value in model.object_patches.items() if path not in _KNOWN},
        "injections": model.injections,
        "weight_wrapper_patches": getattr(model, "weight_wrapper_patches", {}),
        "additional_models": model.additional_models,
    }
    kept = {name: _foreign(value) for name, value in found.items() if name not in _WITHOUT_EFFECT}
    return {name: value for name, value in kept.items() if value}


def merged_calls(model: Any, kind: str) -> dict[str, dict[Any, list[Any]]]:
    """Wrappers or callbacks of a MODEL, as the host merges them for a run: place -> key -> functions."""
    table = model.model_options.get("transformer_options", {}).get(kind, {})
    merged = comfy.patcher_extension.merge_nested_dicts(table, getattr(model, kind))
    for keyed in merged.values():
        keyed.pop(COMPILE_KEY, None)
    return merged


def _foreign(value: Any) -> Any:
    """Nested dicts and lists without functions of this pack, and without what is then empty.

    Functions that the conversion has wrapped, to call them in other coordinates, count as themselves.
    """
    if isinstance(value, dict):
        kept = {key: _foreign(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if not _is_empty(inner)}
    if isinstance(value, list | tuple):
        return [inner for inner in map(_foreign, value) if not _is_empty(inner)]
    value = value.function if isinstance(value, Placed) else value
    return None if getattr(value, "__module__", "").startswith(_PACK) and callable(value) else value


def _is_empty(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, dict | list) and not value)


def changes_calls(model: Any) -> bool:
    """Whether something on a MODEL acts inside a call of its network and may read where in the sampling it is."""
    found = patches_of(model)
    wrapped = {kind for kind in found.get("wrappers", {}) if kind in CALL_WRAPPERS}
    return bool(wrapped or found.keys() & {"patches", "patches_replace", "model_function_wrapper"})


def names_of(model: Any) -> list[str]:
    """Names of the nodes that have put something on a MODEL, as far as their functions and keys tell, sorted."""
    found = patches_of(model)
    return sorted({_owner(function) for function in _functions(found)} | set(map(str, found.get("injections", {}))))


def _functions(value: Any) -> Iterator[Callable[..., Any]]:
    """The functions in nested dicts and lists."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _functions(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _functions(inner)
    elif callable(value):
        yield value


def _owner(function: Callable[..., Any]) -> str:
    """The first part of a function's path: the class of the node that made it."""
    path: str = getattr(function, "__qualname__", type(function).__qualname__)
    return path.split(".")[0]


def what_is_on(model: Any) -> list[str]:
    """Lines on what nodes have put on a MODEL: patched weights, patches and wrappers, injections."""
    lines = [f"patched weights (LoRAs): {len(model.patches)}"] if model.patches else []
    names = [name for name in names_of(model) if name not in model.injections]
    if names:
        lines.append(f"patches and wrappers: {', '.join(names)}")
    if model.injections:
        lines.append(f"injections, which cannot be trained through: {', '.join(map(repr, model.injections))}")
    return lines or ["patches: none"]


def check_trainable(model: Any) -> None:
    """Refuse what cannot be trained through, before anything is loaded.

    Raises:
        ValueError: names what is on the MODEL and the remedy.
    """
    if not model.injections:
        return
    if set(model.injections) == {BYPASS_KEY}:
        raise ValueError(
            "this model carries a LoRA from 'Load LoRA (Bypass)', which takes the place of layers that other models "
            "share, so that it cannot be trained through; load the LoRA with 'Load LoRA' instead"
        )
    keys = ", ".join(repr(key) for key in model.injections)
    raise ValueError(
        f"this model carries code that takes the place of layers while it is loaded (injections {keys}), so that it "
        "cannot be trained through; remove the node that adds it, or put it after the training"
    )
