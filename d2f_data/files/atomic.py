"""Files that are whole or not there, names that are safe, and errors that name the file.

A file is written into a hidden folder beside its place, synced to the disk and moved over the old one. So a crash,
a full disk or a cancelled run leaves the old file as it was. Only safetensors are read: a pickle can run code.
"""

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")

_LEFT_BEHIND_S = 24 * 3600
_WINDOWS = os.name == "nt"
_WAITS, _WAIT_S = 10, 0.1
# What network and FUSE mounts answer when a folder is to be opened or synced.
_UNSYNCED = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM}


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Make a file whole or not at all.

    Args:
        path: where the file goes; its folder is made if need be, a file that is there is replaced.
        write: writes the whole file at the path that it is given, which lies on the same disk.

    Raises:
        OSError: the folder cannot be written to; names it.
        Whatever ``write`` raises; then there is no new file, and an old one is as it was.
    """
    path = Path(path)
    workshop = _make_workshop(path)
    try:
        made = workshop / "part"  # no ending, so that no list of models shows it
        write(made)
        # As a file that open() makes: some writers give theirs to the owner alone.
        made.chmod(workshop.stat().st_mode & 0o666)
        with made.open("rb+") as file:
            os.fsync(file.fileno())
        _replace(made, path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
        with suppress(OSError):  # another writer is at work there
            workshop.parent.rmdir()


def _make_workshop(path: Path) -> Path:
    """A new folder in a hidden one beside ``path``; what a killed process left there long ago is removed.

    Names are short, since Windows takes no path beyond 259 characters: a cache's file has 76 of its own.
    """
    hidden = path.parent / f".{path.name[:8]}.tmp"
    workshop = hidden / uuid.uuid4().hex[:8]
    try:
        with suppress(FileNotFoundError):  # there is none, or another writer has just removed it
            for old in hidden.iterdir():
                _remove_left_behind(old)
        _make_folders(workshop)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {path.name} into the folder {path.parent} ({error.strerror}); make the folder writable, "
            "free some space, or choose another one",
        ) from error
    return workshop


def _make_folders(folder: Path) -> None:
    """``folder`` and those above it; another writer that has finished may remove the one above meanwhile."""
    for _ in range(_WAITS):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True)
            return
    folder.mkdir(parents=True)


def _remove_left_behind(folder: Path) -> None:
    with suppress(FileNotFoundError):  # its writer has just finished
        if time.time() - folder.stat().st_mtime > _LEFT_BEHIND_S:
            shutil.rmtree(folder, ignore_errors=True)


def _replace(made: Path, path: Path) -> None:
    """Move a file over another; on Windows a virus scanner may hold either for a moment, which is waited for."""
    for _ in range(_WAITS if _WINDOWS else 0):
        with suppress(PermissionError):
            os.replace(made, path)
            return
        time.sleep(_WAIT_S)
    os.replace(made, path)


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk; Windows opens no folders and needs none of this, and some mounts cannot."""
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


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: where; replaced if it is there.
        tensors: of any device, shape and layout; such as share memory are stored one by one.
        metadata: strings for the file's header.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = storable(tensors)
    try:
        atomic_write(path, lambda temporary: save_file(ready, temporary, dict(metadata)))
    except SafetensorError as error:
        raise OSError(f"{path} could not be written ({error}); free some space on the disk and save again") from error


def storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each contiguous and with memory of its own."""
    ready: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        memory = plain.untyped_storage().data_ptr()
        ready[name] = plain.clone() if memory in taken else plain
        taken.add(memory)
    return ready


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    The tensors have memory of their own, since a file that is mapped cannot be replaced on Windows, and can be
    trained also when this is called under inference mode.

    Raises:
        ValueError: the file is missing, damaged, or a pickle; names it.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run code when it is opened; only .safetensors files are read. Convert it "
            "with a tool that you trust"
        )
    if not path.is_file():
        raise ValueError(f"there is no file {path}; check the name and the folder")
    try:
        with torch.inference_mode(False), safe_open(str(path), "pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read: it is damaged, cut off, or no safetensors file ({error}); copy or make it again"
        ) from error
