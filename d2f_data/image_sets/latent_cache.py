"""The cache of a training set: small safetensors files, named by the hash of everything that determines their content.

    <folder>/latents/ab/ab12....safetensors    "latent" (C, h, w) and, with a mask, "mask" (1, H, W) uint8
    <folder>/captions/cd/cd34....safetensors   one CONDITIONING, tensors named "0.cond", "0.pooled_output", ...

Latents are stored as the VAE returns them, as in ComfyUI's LATENT, without the model's scale and shift. A truncated or
altered file, or one with another key, counts as missing: it is logged as a warning and encoded again. So nothing waits
for the disk: a power failure costs the last entries, not the training.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..files.atomic import load_tensors, save_tensors
from ..files.json_schema import InvalidJsonError, list_of, parse_json, record, scalar
from ..fingerprints import content_digest, json_digest

LOGGER = logging.getLogger("diff2flow")
FORMAT = "diff2flow-cache-1"
_METADATA_HASH = "metadata_sha256"
SPACE = "vae: as the host's LATENT, not scaled into model space"


def cache_key(*parts: object) -> str:
    """Key of an entry: hash of the format version and of strings, numbers and lists of them."""
    return json_digest([FORMAT, *parts])


class Cache:
    """A folder of tensors that are stored under keys.

    Args:
        folder: created when the first file is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Path of the file of a key."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def contains(self, key: str) -> bool:
        """Whether the cache holds an intact file for a key; damaged files are logged as warnings."""
        if not self.path(key).is_file():
            return False
        try:
            self.load(key)
        except ValueError as error:
            LOGGER.warning("%s; it will be encoded again", error)
            return False
        return True

    def load(self, key: str) -> dict[str, Tensor]:
        """The tensors of a key. Raises ValueError that names the file if it is missing or damaged."""
        return self.load_with_metadata(key)[0]

    def load_with_metadata(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors of a key and the metadata of its file. Raises ValueError as ``load`` does."""
        tensors, metadata = load_tensors(self.path(key))
        stored = metadata.get(_METADATA_HASH)  # files of earlier versions have none
        if (metadata.get("key"), metadata.get("sha256")) != (key, content_digest(tensors)) or (
            stored not in (None, _metadata_digest(metadata))
        ):
            raise ValueError(f"the cache file {self.path(key)} is damaged (its content does not match its hash)")
        if "options" in metadata:
            self._check_options(key, tensors, metadata["options"])
        return tensors, metadata

    def _check_options(self, key: str, tensors: Mapping[str, Tensor], text: str) -> None:
        """Raise ValueError if the options are not those of the conditionings in the file."""
        try:
            entries = parse_json(text, list_of(record({}, rest=scalar)))
        except InvalidJsonError as error:
            raise ValueError(f"the cache file {self.path(key)} is damaged (options: {error})") from error
        numbers = {str(number) for number in range(len(entries))}
        if {name.split(".", 1)[0] for name in tensors} != numbers or {f"{one}.cond" for one in numbers} - set(tensors):
            raise ValueError(f"the cache file {self.path(key)} is damaged (its options are not those of its tensors)")

    def save(self, key: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Store tensors under a key, atomically. Raises OSError that names the file."""
        metadata = {**metadata, "format": FORMAT, "key": key, "sha256": content_digest(tensors)}
        save_tensors(self.path(key), tensors, {**metadata, _METADATA_HASH: _metadata_digest(metadata)}, synced=False)


def _metadata_digest(metadata: Mapping[str, str]) -> str:
    return json_digest({name: value for name, value in metadata.items() if name != _METADATA_HASH})


def folder_size(folder: Path) -> int:
    """Total size of the safetensors files in a folder and its subfolders, in bytes."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))


def pack_conditioning(conditioning: Sequence[Sequence]) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """A CONDITIONING, [[tensor, {name: value}], ...], as the tensors and metadata of a file.

    Returns:
        (tensors, metadata), or None if it has values that a file cannot store, such as hooks.
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


def unpack_conditioning(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[list]:
    """The CONDITIONING from the tensors and metadata of its file: the inverse of ``pack_conditioning``."""
    entries = [[None, options] for options in json.loads(metadata["options"])]
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        if name == "cond":
            entries[int(number)][0] = tensor
        else:
            entries[int(number)][1][name] = tensor
    return entries
