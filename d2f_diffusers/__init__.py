"""Diff2Flow outside ComfyUI: schedulers for diffusers, the demo model in its format, training with accelerate.

    pipe.scheduler = Diff2FlowEulerScheduler.from_config(pipe.scheduler.config)

The mathematics is ``d2f_core``'s and files are ``d2f_data``'s; nothing here is imported by the ComfyUI nodes. diffusers
is imported when one of its classes is asked for.
"""

from importlib import import_module
from typing import Any

__all__ = ["Diff2FlowEulerScheduler", "Diff2FlowHeunScheduler"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".schedulers", __name__), name)
