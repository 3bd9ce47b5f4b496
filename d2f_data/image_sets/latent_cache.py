"""The cache of a training set: small safetensors files, named by the hash of all that their content depends on.

    <folder>/latents/ab/ab12....safetensors    "latent" (C, h, w) and, with a mask, "mask" (1, H, W) uint8
    <folder>/captions/cd/cd34....safetensors   one CONDITIONING, tensors named "0.cond", "0.pooled_output", ...

Latents are those of the VAE, as the host's LATENT holds them (not scaled into the model's space); the metadata
says so. A file that is cut off, altered or of another key counts as missing, with a warning, and is made anew.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..files.atomic import load_tensors, save_tensors
from ..fingerprints import content_digest, json_digest

LOGGER = logging.getLogger("diff2flow")
FORMAT = "diff2flow-cache-1"
SPACE = "vae: as the host's LATENT, not scaled into model space"


def key_of(*parts: object) -> str:
    """Hash of strings, numbers and lists of them; another format version gives other keys."""
    return json_digest([FORMAT, *parts])


class Cache:
    """A room of the cache: tensors under keys, on disk.

    Args:
        folder: made when the first file is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where the tensors of a key lie."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def holds(self, key: str) -> bool:
        """Whether the tensors of a key are there and whole; says in the log when they are there but not whole."""
        if not self.path(key).is_file():
            return False
        try:
            self.load(key)
        except ValueError as error:
            LOGGER.warning("%s; it will be encoded again", error)
            return False
        return True

    def load(self, key: str) -> dict[str, Tensor]:
        """The tensors of a key. Raises ValueError that names the file when they are missing or not whole."""
        return self.load_with_facts(key)[0]

    def load_with_facts(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors of a key and the file's metadata. Raises as ``load``."""
        tensors, facts = load_tensors(self.path(key))
        if (facts.get("key"), facts.get("sha256")) != (key, content_digest(tensors)):
            raise ValueError(f"the cache file {self.path(key)} is damaged (its content does not match its hash)")
        return tensors, facts

    def save(self, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Store tensors under a key, whole or not at all. Raises OSError that names what cannot be written."""
        metadata = {**facts, "format": FORMAT, "key": key, "sha256": content_digest(tensors)}
        save_tensors(self.path(key), tensors, metadata)


def folder_size(folder: Path) -> int:
    """Bytes in a folder and below."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))


def pack_conditioning(conditioning: Sequence[Sequence]) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """A host's CONDITIONING, [[tensor, {name: value}], ...], as tensors and metadata.

    Returns:
        None for one that holds what no file can, such as hooks.
    """
    tensors: dict[str, Tensor] = {}
    plain: list[dict[str, object]] = []
    for number, (cond, options) in enumerate(conditioning):
        tensors |= {f"{number}.cond": cond}
        tensors |= {f"{number}.{name}": value for name, value in options.items() if isinstance(value, Tensor)}
        plain.append({name: value for name, value in options.items() if not isinstance(value, Tensor)})
    if not all(isinstance(value, str | int | float | None) for options in plain for value in options.values()):
        return None
    return tensors, {"options": json.dumps(plain)}


def unpack_conditioning(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> list[list]:
    """The CONDITIONING that ``pack_conditioning`` took apart."""
    entries = [[None, options] for options in json.loads(facts["options"])]
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        if name == "cond":
            entries[int(number)][0] = tensor
        else:
            entries[int(number)][1][name] = tensor
    return entries
