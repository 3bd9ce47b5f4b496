"""The fingerprint of a module as a host has patched it; those of networks and items are ``d2f_data``'s.

Caches are found again only under the fingerprints that they were made with, so what goes into it is part of their
format.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..d2f_data.fingerprints import evenly_spaced, items_fingerprint, weights_fingerprint

__all__ = ["items_fingerprint", "patched_fingerprint", "weights_fingerprint"]


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


def _sample_bytes(weight: Tensor) -> bytes:
    # Converted on the CPU: some devices have no float64.
    return b"" if weight.is_meta or not weight.numel() else evenly_spaced(weight).cpu().double().numpy().tobytes()


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
