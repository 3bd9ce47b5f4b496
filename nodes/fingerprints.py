"""Fingerprints: hashes that say whether a network, a conditioning or a training item is what it was.

Runs, caches and reflow pairs are resumed only under the fingerprints that they were made with, so what goes into each
is part of their format. Those of files, tensors on disk and noise schedules are in ``d2f_data.fingerprints``.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

SAMPLED = 64  # elements of each weight that are looked at


def weights_fingerprint(network: nn.Module) -> str:
    """16 hex digits of SHA-256 over names, shapes and 64 evenly spaced values of each weight, in float32."""
    digest = hashlib.sha256()
    for name, weight in network.named_parameters():
        values = _evenly_spaced(weight).to("cpu", torch.float32)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()[:16]


def patched_fingerprint(
    module: nn.Module, options: str, replaced: Mapping[str, Tensor], patches: Mapping[Any, Any]
) -> str:
    """SHA-256 over a module's class, options, a sample of its weights, and the patches of a host.

    Args:
        module: any module.
        options: what else decides its output.
        replaced: name of a weight -> the weight that counts instead, where a host has patched it in place.
        patches: name of a weight -> nested lists of tensors, numbers and strings, or objects whose ``weights`` are.
    """
    digest = hashlib.sha256(f"{type(module).__name__} {options}".encode())
    for name, weight in sorted(module.state_dict().items()):
        weight = replaced.get(name, weight)
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(_sample_bytes(weight))
    for name, patch in sorted(patches.items(), key=lambda entry: str(entry[0])):
        digest.update(str(name).encode())
        for part in _leaves(patch):
            digest.update(_sample_bytes(part) if isinstance(part, Tensor) else repr(part).encode())
    return digest.hexdigest()


def items_fingerprint(tensors: Iterable[Tensor], conditions: Iterable[Mapping[str, Tensor]]) -> str:
    """16 hex digits of SHA-256 over shapes and values of tensors, and over conditioning kwargs, name -> tensor."""
    digest = hashlib.sha256()
    for tensor in tensors:
        _add_tensor(digest, tensor)
    for condition in conditions:
        for name, tensor in sorted(condition.items()):
            digest.update(name.encode())
            _add_tensor(digest, tensor)
    return digest.hexdigest()[:16]


def _add_tensor(digest: Any, tensor: Tensor) -> None:
    digest.update(str(tuple(tensor.shape)).encode())
    digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())


def _evenly_spaced(weight: Tensor) -> Tensor:
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)]


def _sample_bytes(weight: Tensor) -> bytes:
    # Converted on the CPU: some devices have no float64.
    return b"" if weight.is_meta or not weight.numel() else _evenly_spaced(weight).cpu().double().numpy().tobytes()


def _leaves(patch: Any) -> Iterator[Any]:
    """Tensors, numbers and strings inside of a host's patch tuples and adapters."""
    if isinstance(patch, list | tuple):
        for part in patch:
            yield from _leaves(part)
    elif hasattr(patch, "weights"):
        yield type(patch).__name__
        yield from _leaves(patch.weights)
    elif patch is None or isinstance(patch, Tensor | str | int | float):
        yield patch
