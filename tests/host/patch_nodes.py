"""The host's nodes that put something on a MODEL, with values under which they act on the small models."""

import importlib
import inspect
import pkgutil
from typing import Any

# Other inputs than widgets that the tests cannot give, or nodes for other networks and for several GPUs.
OTHERS = {"LTXVReferenceAudio", "WanInfiniteTalkToVideo", "ARVideoI2V", "TripoSplatSamplingPreview"}
VALUES: dict[str, dict[str, Any]] = {
    "HyperTile": {"tile_size": 32, "swap_size": 1},
    "FreeU": {"b2": 1.4, "s2": 0.3},
    "FreeU_V2": {"b2": 1.4, "s2": 0.3},
    "UNetSelfAttentionMultiply": {"q": 1.3, "v": 0.8},
    "UNetCrossAttentionMultiply": {"q": 1.3, "v": 0.8},
    "FreSca": {"freq_cutoff": 2, "scale_high": 1.5},
    "PatchModelAddDownscale": {"block_number": 1, "end_percent": 0.5},
    "TorchCompileModel": {"backend": "eager"},  # the others need a compiler, and minutes
}


def find() -> dict[str, type]:
    """Name -> class of each node that takes one MODEL and widgets and gives a MODEL."""
    import comfy_extras

    found: dict[str, type] = {}
    for entry in pkgutil.iter_modules(comfy_extras.__path__):
        if entry.name.startswith("nodes_"):
            try:
                module = importlib.import_module(f"comfy_extras.{entry.name}")
            except ImportError:  # packages that only some nodes need
                continue
            found |= {
                name: cls
                for name, cls in vars(module).items()
                if inspect.isclass(cls) and is_patch(cls, module.__name__)
            }
    return found


def is_patch(cls: Any, module: str) -> bool:
    if cls.__module__ != module or not hasattr(cls, "INPUT_TYPES") or cls.__name__ in OTHERS:
        return False
    try:
        required, gives = cls.INPUT_TYPES().get("required", {}), cls.RETURN_TYPES
    except Exception:
        return False
    linked = [name for name, value in required.items() if is_link(value)]
    return "MODEL" in gives and linked == ["model"]


def is_link(value: Any) -> bool:
    kind = value[0]
    return isinstance(kind, str) and kind not in {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def put(cls: Any, model: Any, **chosen: Any) -> Any:
    """MODEL out of a node with its defaults, with the values above, and with those that are chosen and that it has."""
    values: dict[str, Any] = {}
    for name, value in cls.INPUT_TYPES()["required"].items():
        options = value[1] if len(value) > 1 else {}
        if not is_link(value):
            choices = value[0] if isinstance(value[0], list) else options.get("options", [])
            values[name] = options.get("default", choices[0] if choices else None)
    values |= VALUES.get(cls.__name__, {}) | {name: value for name, value in chosen.items() if name in values}
    function = getattr(cls, "execute", None) or getattr(cls(), cls.FUNCTION)
    found = function(model=model, **values)
    return getattr(found, "result", found)[0]
