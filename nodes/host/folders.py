"""Folders of the host that the pack reads from and writes to, and what the paths in widgets may lead to.

On a server that only its own computer can reach, whoever types a path could open the file without ComfyUI as well, so
any path is allowed. On a server that others can reach, widgets read what the server shows to them anyway (its input,
output and temporary folders), its folder of datasets, and the folders that its owner has listed in
extra_model_paths.yaml.
"""

import ipaddress
import os
import time
from collections.abc import Callable
from pathlib import Path

import folder_paths
from comfy.cli_args import args

from ...d2f_data.files.names import check_name, shorten, unreadable
from ...d2f_data.reflow.manifest import MANIFEST

MAX_PATH_BYTES, MAX_PART_BYTES = 4096, 255  # limits of Linux; those of other systems are lower
OWNERS_CATEGORY = "diff2flow"
LORA_SUFFIXES = (".safetensors", ".sft")


def input_folder() -> Path:
    """ComfyUI's input folder."""
    return Path(folder_paths.get_input_directory())


def user_path(widget: str, value: str) -> Path:
    """The path that a widget names: absolute, or relative to the input folder; quotes and ~ are allowed.

    Args:
        widget: name of the widget, for errors.
        value: value of the widget.

    Returns:
        The path without links and "..", which need not exist.

    Raises:
        ValueError: no file system can have such a path, or this server may not read it.
    """
    typed = value.strip().strip("\"'")
    path = input_folder() / _expanded(widget, typed)
    fault = unreadable(str(path), MAX_PATH_BYTES)
    for part in () if fault else path.parts:
        fault = fault or unreadable(part, MAX_PART_BYTES)
    if fault:
        raise ValueError(f"{widget} {shorten(value)} {fault}; enter the path of an existing file or folder")
    path = Path(os.path.realpath(path))
    if not may_read(path):
        raise ValueError(
            f"{widget} {shorten(value)} leads to {path}, which may not be read, as others can reach this server (it "
            f"listens on {args.listen}): enter a path inside ComfyUI's input folder ({input_folder()}), or let the "
            "server's owner allow the folder with these lines in extra_model_paths.yaml and a restart:\n"
            f"diff2flow_kit:\n    {OWNERS_CATEGORY}: /the/folder"
        )
    return path


def _expanded(widget: str, typed: str) -> Path:
    try:
        return Path(typed).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{widget} {shorten(typed)} names the home folder of a user that does not exist; enter the whole path"
        ) from error


def may_read(path: Path) -> bool:
    """Whether a widget may lead to a path, which is free of links."""
    if not is_shared():
        return True
    categories = folder_paths.folder_names_and_paths
    allowed = [folder for name in ("datasets", OWNERS_CATEGORY) if name in categories for folder in categories[name][0]]
    own = (folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory())
    return any(path.is_relative_to(os.path.realpath(folder)) for folder in (*own, *allowed))


def is_shared() -> bool:
    """Whether others can reach this server: it listens on a network, or has several users."""
    addresses = [address.strip() for address in str(args.listen).split(",")]
    return bool(getattr(args, "multi_user", False)) or not all(map(_is_loopback, addresses))


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:  # a host name
        return False


def file_state(find: Callable[[], Path]) -> str:
    """Changes with the size and the modification time of a file. For fingerprints, in which nothing may be raised.

    Args:
        find: returns the path; for one that is invalid or has no file, the state differs at every call, so that the
            node runs and reports the error.
    """
    try:
        status = find().stat()
    except (OSError, ValueError):
        return f"unknown {time.time_ns()}"
    return f"{status.st_mtime_ns} {status.st_size}"


def cache_folder() -> Path:
    """Folder of the caches of encoded training sets."""
    return training_folder() / "cache"


def lora_folder() -> Path:
    """Folder that LoRAs are saved in; the host's loaders search it."""
    return Path(folder_paths.get_output_directory()) / "loras"


def training_folder() -> Path:
    """Folder of everything that the pack writes besides LoRAs."""
    return Path(folder_paths.get_output_directory()) / "diff2flow"


def pairs_folder() -> Path:
    """Folder of the sets of reflow pairs."""
    return training_folder() / "pairs"


def pair_set_folder(name: str) -> Path:
    """Folder of a set of reflow pairs. Raises ValueError if the name leads out of the folder of all sets."""
    return pairs_folder() / check_name(name, "the name of the pairs")


def pair_sets() -> list[str]:
    """Names of the complete sets of reflow pairs."""
    root = pairs_folder()
    return sorted(path.parent.relative_to(root).as_posix() for path in root.glob(f"**/{MANIFEST}"))


def lora_files() -> list[str]:
    """Names of the LoRA files that can be loaded, as the host's loaders show them."""
    return [name for name in folder_paths.get_filename_list("loras") if name.lower().endswith(LORA_SUFFIXES)]


def lora_path(name: str) -> Path:
    """Path of a LoRA of ``lora_files``.

    Raises:
        ValueError: names the file and the folders that were searched.
    """
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        folders = ", ".join(folder_paths.get_folder_paths("loras"))
        raise ValueError(f"there is no LoRA {name!r} in {folders}; choose one of the list, or put the file there")
    return Path(path)
