"""Fingerprints: SHA-256 hashes of files, tensors, settings and noise schedules, in hexadecimal digits.

They decide what is the same: a latent in the cache, a set of reflow pairs, the noise schedule of a LoRA. A hash that
changes makes all of that new, so what goes into each is part of a file format.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BLOCK = 1 << 20  # bytes that are read at once


def json_digest(value: Any) -> str:
    """Hash of strings, numbers, lists and dicts of them; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def text_digest(text: str) -> str:
    """Hash of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hash of a file's bytes. Raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def cached_file_digest(path: Path) -> str:
    """``file_digest``, kept in memory while size and time of change stay the same."""
    status = path.stat()
    return _cached_file_digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _cached_file_digest(path: Path, size: int, changed_ns: int) -> str:
    return file_digest(path)


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def safetensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the bytes behind the header of a safetensors file with these tensors: ModelSpec's hash.

    The tensors are contiguous, on the CPU, and share no memory.
    """
    from safetensors.torch import save

    content = memoryview(save(dict(tensors)))
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def schedule_fingerprint(schedule: Any) -> str:
    """SHA-256 of a ``NoiseSchedule``: of its ``log_sigma`` (T,), float64, rounded to 1e-6."""
    rows = (schedule.log_sigma.double() * 1e6).round().long().cpu()
    return hashlib.sha256(rows.numpy().astype("<i8").tobytes()).hexdigest()
