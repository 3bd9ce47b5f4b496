"""Atomic writing of files, and safetensors files that are written atomically.

A file is written under a hidden name next to its destination, synced to the disk and moved over the old one. So a
crash, a full disk or a cancelled run leaves the old file intact. Files that are checked whenever they are read need not
be synced, which takes longer than writing them. Only safetensors are read, as a pickle can run code.
"""

import errno
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")

_STALE_S = 24 * 3600  # seconds after which a temporary file is considered abandoned
_WINDOWS = os.name == "nt"
_RETRIES, _RETRY_S = 10, 0.1  # number of retries, and seconds between them
# Error codes of network and FUSE mounts on which a folder cannot be opened or synced.
_UNSYNCED = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM}


def atomic_write(path: Path, write: Callable[[Path], Any], keep: Path | None = None, synced: bool = True) -> None:
    """Write a file completely or not at all.

    Args:
        path: destination; its folder is created if necessary, and an existing file is replaced.
        write: writes the file to the path that it is called with, which is on the same file system.
        keep: path that the existing file is moved to instead of being lost.
        synced: whether to wait for the disk; if not, a power failure can leave a damaged file.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; names the file. Folders that were created for it
            are removed.
        Exception: any error of ``write``; an existing file is left intact.
    """
    path = Path(path)
    missing = missing_folders(path.parent)
    part = None
    try:
        part, mode = _make_part(path)
        write(part)
        part.chmod(mode)  # some writers allow access to the owner only
        if synced:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        if keep is not None and os.path.exists(path):
            _replace(path, keep)
        _replace(part, path)
        if synced:
            _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if part is not None:
            with suppress(OSError):  # it was moved
                part.unlink()
        if not os.path.exists(path):
            remove_empty(missing)


def _unwritable(path: Path, error: OSError) -> OSError:
    """The same error with a text that names the file and the remedy."""
    kind = type(error) if type(error).__module__ == "builtins" else OSError
    return kind(
        error.errno or errno.EIO,
        f"cannot write {path.name} into the folder {path.parent} ({error.strerror or error}); make the folder "
        "writable, free some space, or choose another one",
    )


def missing_folders(folder: Path) -> list[Path]:
    """Those of a folder and its parents that do not exist."""
    return [one for one in (folder, *folder.parents) if not os.path.exists(one)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file, completely or not at all. Raises OSError that names the file."""
    content = line.encode() + b"\n"
    try:
        with path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise _unwritable(path, error) from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises OSError that names it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _make_part(path: Path) -> tuple[Path, int]:
    """A free path next to ``path`` and the permissions of a file that open() creates there.

    What killed processes left there is removed when it is old. Names are short, since Windows limits paths to 259
    characters, and the name of a cache file alone has 76; their suffix is in no list of models.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    begin = f".{path.name[:8]}."
    for old in path.parent.iterdir():
        if old.name.startswith(begin) and old.suffix == ".tmp":
            _remove_if_stale(old)
    part = path.parent / f"{begin}{uuid.uuid4().hex[:8]}.tmp"
    part.touch()
    mode = stat.S_IMODE(part.stat().st_mode)
    part.unlink()
    return part, mode


def _remove_if_stale(part: Path) -> None:
    with suppress(FileNotFoundError):  # its writer has just finished
        if time.time() - part.stat().st_mtime > _STALE_S:
            part.unlink()


def _replace(written: Path, path: Path) -> None:
    """Move a file over another; retried on Windows, where a virus scanner may briefly keep either of them open."""
    for _ in range(_RETRIES if _WINDOWS else 0):
        with suppress(PermissionError):
            os.replace(written, path)
            return
        time.sleep(_RETRY_S)
    os.replace(written, path)


def _sync_folder(folder: Path) -> None:
    """Sync the new directory entry to the disk; not possible on Windows and on some network and FUSE mounts."""
    if _WINDOWS:
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    keep: Path | None = None,
    synced: bool = True,
) -> None:
    """Write a safetensors file, completely or not at all.

    Args:
        path: destination; an existing file is replaced.
        tensors: tensors on any device, of any shape and layout; those that share memory are stored separately.
        metadata: strings for the header of the file.
        keep: path that an existing file is moved to.
        synced: as for ``atomic_write``.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = storable(tensors)
    try:
        atomic_write(path, lambda temporary: save_file(ready, temporary, dict(metadata)), keep, synced)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written ({error}); free some space on the disk and save again") from error


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous and without shared memory."""
    ready: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        memory = plain.untyped_storage().data_ptr()
        ready[name] = plain.clone() if memory in used else plain
        used.add(memory)
    return ready


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors, on the CPU, and the metadata of a safetensors file.

    The tensors are copies, since a memory-mapped file cannot be replaced on Windows. They are no inference tensors, so
    they can be trained even if this is called in inference mode.

    Raises:
        ValueError: the file is missing, damaged or a pickle; names it.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises ValueError as ``load_tensors`` does."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; errors become ValueErrors that name it."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run code when it is opened; only .safetensors files are read. Convert it "
            "to safetensors with a tool that you trust"
        )
    if not path.is_file():
        raise ValueError(f"there is no file {path}; check the name and the folder")
    try:
        with torch.inference_mode(False), safe_open(str(path), "pt") as file:
            yield file
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read: it is damaged, truncated or not a safetensors file ({error}); copy it again"
        ) from error
