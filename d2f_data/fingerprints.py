"""Fingerprints: SHA-256 hashes of files, tensors, settings, noise schedules and networks, in hexadecimal digits.

They identify cached latents, sets of reflow pairs, training items, and the base model and noise schedule of a LoRA.
What goes into a hash is part of a file format: if it changes, caches are encoded again, and sets and LoRAs no longer
match.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

BLOCK = 1 << 20  # bytes per read
SAMPLED = 64  # elements of each weight that are looked at


def json_digest(value: Any) -> str:
    """Hash of strings, numbers, and lists and dicts of them; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def text_digest(text: str) -> str:
    """Hash of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hash of a file's bytes. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return _rest_digest(file)


def _rest_digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def cached_file_digest(path: Path) -> str:
    """``file_digest``, cached in memory until the size or modification time of the file changes."""
    status = path.stat()
    return _file_digest_at(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _file_digest_at(path: Path, size: int, changed_ns: int) -> str:
    return file_digest(path)


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash of the names, dtypes, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def safetensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash of the bytes after the header of a safetensors file with these tensors, as ModelSpec defines it.

    Args:
        tensors: contiguous tensors on the CPU that share no memory.
    """
    from safetensors.torch import save

    content = memoryview(save(dict(tensors)))
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def safetensors_file_digest(path: Path) -> str:
    """``safetensors_digest`` of a file on the disk. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        return _rest_digest(file)


def schedule_fingerprint(schedule: Any, sigma_data: float = 1.0) -> str:
    """Hash of a schedule: of a table's ``log_sigma`` (T,), float64, rounded to 1e-6, or of a formula's parameters.

    Args:
        schedule: ``d2f_core.Schedule``.
        sigma_data: deviation of the data that a network over a continuous schedule was scaled for.
    """
    if not hasattr(schedule, "log_sigma"):
        values = [f"{value:.6g}" if isinstance(value, float) else value for value in astuple(schedule)]
        return json_digest([type(schedule).__name__, *values, f"{sigma_data:.6g}"])
    rows = (schedule.log_sigma.double() * 1e6).round().long().cpu()
    return hashlib.sha256(rows.numpy().astype("<i8").tobytes()).hexdigest()


def weights_fingerprint(network: nn.Module) -> str:
    """16 hex digits of SHA-256 over names, shapes and 64 evenly spaced values of each weight, in float32."""
    digest = hashlib.sha256()
    for name, weight in network.named_parameters():
        values = evenly_spaced(weight).to("cpu", torch.float32)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()[:16]


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


def evenly_spaced(weight: Tensor) -> Tensor:
    """About ``SAMPLED`` values of a weight, one-dimensional."""
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)]
