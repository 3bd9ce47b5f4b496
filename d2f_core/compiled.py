"""Parts of a frozen copy, compiled by ``torch.compile``, with adapters that can change.

What is compiled is what repeats: the layers of a transformer, or a block that has none. Each becomes one graph, made
when it first runs; parts with equal layers share one, as parameters are inputs of a graph. For the same reason adapters
may change: training, its moving average and validation take turns on one network. Only the hooks must stay, so every
layer gets one for good, which looks into a slot,

    y = layer(x) + slot.adapter(x)

Compiled arithmetic rounds differently, so a run is compiled from its first step to its last or not at all.
"""

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import AdapterSlot, is_conv, is_linear

BACKEND = "inductor"


def compiler_fault(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device here, in one line; None if it can, after compiling one product."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            torch.compile(_probe, backend=BACKEND)(torch.ones(2, 2, device=device, requires_grad=True)).backward()
    except Exception as error:  # whatever a compiler, a driver or a missing package raises
        return _first_line(error)
    return None


def _probe(x: Tensor) -> Tensor:
    return (x * 2 + 1).relu().sum()


def compile_blocks(
    blocks: Iterable[nn.Module],
    tell: Callable[[str], None] | None = None,
    arguments: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    backend: str | Callable[..., Any] = BACKEND,
) -> None:
    """Let blocks of a network of our own run compiled from their next call on.

    What cannot be compiled runs as it is.

    Args:
        blocks: modules that nobody else uses.
        tell: gets one line about the first part that cannot be compiled.
        arguments: the keyword arguments that a compiled part gets, from those of the call.
        backend: of ``torch.compile``.
    """
    faults: list[str] = []

    def report(fault: str) -> None:
        if not faults and tell is not None:
            tell(f"a part of the network cannot be compiled and runs as it is: {fault}")
        faults.append(fault)

    codes: dict[Any, CodeType] = {}
    for part in [part for block in blocks for part in _parts(block)]:
        for layer in part.modules():
            if is_linear(layer) or is_conv(layer):
                AdapterSlot.put(layer)
        alike = type(part), tuple(weight.shape for weight in part.parameters())
        code = codes.setdefault(alike, _call.__code__.replace())
        part.forward = _compiled(part, code, arguments, report, backend)


def _parts(block: nn.Module) -> list[nn.Module]:
    """What repeats inside a block, such as the layers of a transformer; the block itself if nothing does."""
    inside = [child for row in block.children() if isinstance(row, nn.ModuleList) for child in row]
    found = [child for child in inside if sum(1 for _ in child.children()) > 1]
    return found or [block]


def _compiled(
    part: nn.Module,
    code: CodeType,
    arguments: Callable[[dict[str, Any]], dict[str, Any]],
    report: Callable[[str], None],
    backend: str | Callable[..., Any],
) -> Callable[..., Any]:
    """The compiled forward function of a part; it must not keep the part, which keeps it.

    Torch keeps a few graphs per code object: parts that are alike share ``code``, others must not.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes a second, which only those who compile should wait

    own, kind, alive = vars(part).get("forward"), type(part).forward, weakref.ref(part)
    fast: Callable[..., Any] | None = torch.compile(FunctionType(code, globals()), backend=backend)

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal fast
        forward = own or partial(kind, alive())
        if fast is not None:
            try:
                return fast(forward, *args, **arguments(kwargs))
            except TorchDynamoException as error:
                fast = None
                report(_first_line(error))
        return forward(*args, **kwargs)

    return run


def _call(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What is compiled: the part's own forward function, inlined."""
    return forward(*args, **kwargs)


def _first_line(error: Exception) -> str:
    """Kind and first line of an error, or of that of the compiler inside it."""
    error = getattr(error, "inner_exception", error)
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
