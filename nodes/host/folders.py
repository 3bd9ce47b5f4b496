"""Folders of the host that the pack reads from and writes to."""

from pathlib import Path

import folder_paths

from ...d2f_data.reflow.manifest import MANIFEST

LORA_SUFFIXES = (".safetensors", ".sft")


def input_folder() -> Path:
    """ComfyUI's input folder."""
    return Path(folder_paths.get_input_directory())


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
