"""Checks of what a node is given: when a graph is queued, and when the node runs.

``validate_inputs`` of a node sees the values of widgets before anything runs, and its message is shown on the node at
once; a value that comes through a wire is known only when the node runs, and may be one that no widget allows.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io

from . import host

UNCONNECTED = "<unconnected>"
"""Default of an input in ``validate_inputs``: a connected one is None there, and one without a wire is left out."""


def fault_of(*checks: Callable[[], object]) -> bool | str:
    """What ``validate_inputs`` returns: the sentence of the first check that raises ValueError, or True."""
    try:
        for check in checks:
            check()
    except ValueError as error:
        return str(error)
    return True


def checked(*open_choices: str) -> Callable[[Callable[..., io.NodeOutput]], Callable[..., io.NodeOutput]]:
    """Decorates ``execute``: refuses what the node's widgets do not allow, except for ``open_choices``, file combos.

    What it or the node refuses is the node's own text as well, which stays when the message of the error is closed.
    """

    def decorate(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
        signature = inspect.signature(execute)

        @functools.wraps(execute)
        def run(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> io.NodeOutput:
            given = dict(signature.bind(cls, *args, **kwargs).arguments)
            given |= given.pop("widgets", {})
            try:
                check_values(cls.define_schema(), {key: one for key, one in given.items() if key not in open_choices})
                return execute(cls, *args, **kwargs)
            except ValueError as error:
                host.settle(str(error))
                raise

        return run

    return decorate


def check_values(schema: io.Schema, given: Mapping[str, Any]) -> None:
    """Check every value that a node was given, those of lists one by one."""
    for widget in schema.inputs:
        value = given.get(widget.id)
        for one in value if schema.is_input_list and isinstance(value, list) else [value]:
            check_value(widget, one)


def check_value(widget: Any, value: Any) -> None:
    """Raise ValueError for what a wire may bring but a widget does not allow; None is an optional one left out."""
    name, whole = getattr(widget, "display_name", None) or widget.id, isinstance(widget, io.Int.Input)
    if value is None:
        return
    if isinstance(widget, io.Int.Input | io.Float.Input):
        if not isinstance(value, Integral if whole else Real):
            raise ValueError(f"{name} is {value!r}; it must be a {'whole ' if whole else ''}number")
        if not widget.min <= value <= widget.max:
            raise ValueError(f"{name} is {value}; allowed are {widget.min} to {widget.max}")
    elif isinstance(widget, io.Combo.Input | io.DynamicCombo.Input):
        nested = isinstance(widget, io.DynamicCombo.Input)
        options = {one.key: one.inputs for one in widget.options} if nested else dict.fromkeys(widget.options, ())
        chosen = value.get(widget.id) if nested else value
        if chosen not in options:
            raise ValueError(f"{name} is {chosen!r}; allowed are {', '.join(map(repr, options))}")
        for inner in options[chosen]:
            check_value(inner, value.get(inner.id))
