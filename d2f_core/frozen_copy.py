"""A network of our own over weights that belong to somebody else.

Training needs hooks on layers, recomputation of blocks, and weights that autograd may keep. A network that others use
as well must get none of these. ``frozen_copy`` therefore builds new module objects around the same storage:

    view = frozen_copy(network)        view(x) == network(x), bit for bit; no weight is copied

Hooks, flags and forward functions of the view are its own, so that nothing has to be undone afterwards, whatever
happens; a method that is bound to a module of the network is bound to its twin in the view. Tensors made under
``torch.inference_mode`` cannot be saved for a backward pass; the view's tensors are new ones over the same memory,
which can.

With ``recompute`` the blocks of the view keep only their inputs and compute the rest again in the backward pass
(Chen et al., arXiv 1604.06174): about a third more time for a fraction of the memory. Blocks that add in place to
what they were given (``x += y``, in Flux) could neither be trained nor computed again: those of ``out_of_place`` make
a new x instead.
"""

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.checkpoint import checkpoint

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def frozen_copy(
    network: nn.Module,
    dtype: torch.dtype | None = None,
    recompute: bool = False,
    fetch: Callable[[str], Tensor] | None = None,
    compiled: Callable[[list[nn.Module]], None] | None = None,
    out_of_place: tuple[type[nn.Module], ...] = (),
) -> nn.Module:
    """New modules over the weights and buffers of ``network``, frozen, in evaluation mode.

    Args:
        network: any module; it is only read.
        dtype: compute in this floating point type; weights of another one are copied. None shares all of them.
        recompute: compute the blocks again in the backward pass instead of keeping what is inside them.
        fetch: gives the tensor to use for the parameter of a path, where those of ``network`` are not the ones.
        compiled: compiles the blocks, such as ``compile_blocks``; what is recomputed is then compiled, too.
        out_of_place: kinds of blocks that compute ``x += y`` as ``x = x + y`` where gradients are recorded; they must
            use what ``add_`` and its like return, as ``+=`` does.
    """
    copier = _Copier(dtype)
    if fetch is not None:
        for path, parameter in network.named_parameters():
            copier.tensor(parameter, fetch(path))
    view = copier.module(network)
    view.eval()
    blocks = _blocks(view)
    for block in blocks:
        if isinstance(block, out_of_place):
            block.forward = _out_of_place(block)
    if compiled is not None:
        compiled(blocks)
    for block in blocks if recompute else ():
        block.forward = recomputed(block)
    return view


class _Copier:
    """Copies modules and tensors once each, so that what was shared stays shared."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.done: dict[int, Any] = {}

    def module(self, module: nn.Module) -> nn.Module:
        if id(module) not in self.done:
            twin = object.__new__(type(module))
            # Dicts hold hooks and parameters: the twin needs its own of each.
            twin.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in module.__dict__.items()}
            _bind_methods(module, twin)
            twin._parameters.update({k: self.tensor(v) for k, v in module._parameters.items()})
            twin._buffers.update({k: self.tensor(v) for k, v in module._buffers.items()})
            self.done[id(module)] = twin
            twin._modules.update({k: v and self.module(v) for k, v in module._modules.items()})
        return self.done[id(module)]

    def tensor(self, tensor: Any, replacement: Tensor | None = None) -> Any:
        if tensor is None or id(tensor) in self.done:
            return self.done.get(id(tensor))
        shared = for_autograd(tensor if replacement is None else replacement)
        # Formats of fewer than 16 bits are cast by the layers that know them.
        if self.dtype is not None and shared.is_floating_point() and shared.element_size() > 1:
            shared = shared.to(self.dtype)
        is_parameter = isinstance(tensor, nn.Parameter)
        self.done[id(tensor)] = nn.Parameter(shared, requires_grad=False) if is_parameter else shared
        return self.done[id(tensor)]


def _bind_methods(module: nn.Module, twin: nn.Module) -> None:
    """Methods kept on the module itself, as hooks leave them behind: those of its class go, others are bound anew."""
    for name, value in list(vars(module).items()):
        if isinstance(value, MethodType) and value.__self__ is module:
            if value.__func__ is getattr(type(module), name, None):
                del twin.__dict__[name]
            else:
                twin.__dict__[name] = MethodType(value.__func__, twin)


def for_autograd(tensor: Tensor) -> Tensor:
    """A tensor over the same memory that a backward pass may use, also of one made under inference mode.

    One that only wraps others, such as a quantized weight, is built anew around such tensors over their memory.
    """
    if not tensor.is_inference():
        return tensor.detach()
    if is_traceable_wrapper_subclass(tensor):
        names, context = tensor.__tensor_flatten__()
        inner = {name: for_autograd(getattr(tensor, name)) for name in names}
        return type(tensor).__tensor_unflatten__(inner, context, tensor.shape, tensor.stride())
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The highest modules below ``module`` that are no containers and have more than one layer inside."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, _CONTAINERS):
            found += _blocks(child)
        elif sum(1 for _ in child.children()) > 1:
            found.append(child)
    return found


_IN_PLACE: dict[str, Callable[..., Tensor]] = {
    "add_": torch.add,
    "sub_": torch.sub,
    "mul_": torch.mul,
    "div_": torch.div,
}


class _OutOfPlace(TorchFunctionMode):
    """Computes ``x += y`` and its like as ``x = x + y``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        return _IN_PLACE[name](*args, **kwargs).to(args[0].dtype) if name in _IN_PLACE else func(*args, **kwargs)


def _out_of_place(block: nn.Module) -> Callable[..., Any]:
    """The forward function of a block that changes no tensor by ``x += y``. It must not keep the block, either."""
    own, kind, alive = vars(block).get("forward"), type(block).forward, weakref.ref(block)

    def run(*args: Any, **kwargs: Any) -> Any:
        forward = own or partial(kind, alive())
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        with _OutOfPlace():
            return forward(*args, **kwargs)

    return run


def recomputed(block: nn.Module) -> Callable[..., Any]:
    """The forward function of a block that keeps only its inputs. It must not keep the block, which keeps it."""
    own, kind, alive = vars(block).get("forward"), type(block).forward, weakref.ref(block)

    def run(*args: Any, **kwargs: Any) -> Any:
        forward = own or partial(kind, alive())
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(_repeatable(forward, args, kwargs), *args, use_reentrant=False, **kwargs)

    return run


def _repeatable(forward: Callable[..., Any], args: Iterable[Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
    """``forward`` whose later calls see dicts as they are now: networks note in them where they are, as they run."""
    first, kept, named = True, [_copied(value) for value in args], {k: _copied(v) for k, v in kwargs.items()}

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal first
        if first:
            first, before = False, _versions(args)
            result = forward(*args, **kwargs)
            if _versions(args) != before:
                raise ValueError(
                    "this network changes what its blocks are given, so that they cannot be computed again; switch "
                    "checkpointing off"
                )
            return result
        return forward(*map(_copied, kept), **{name: _copied(value) for name, value in named.items()})

    return call


def _versions(values: Iterable[Any]) -> list[int]:
    """How often each tensor was written to."""
    return [value._version for value in values if isinstance(value, Tensor) and not value.is_inference()]


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
