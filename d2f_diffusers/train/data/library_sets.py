"""Data sets of the library ``datasets``, a hub name or local files, as a folder that the rest of the package reads.

    <cache>/sets/<fingerprint>/00000007.jpg     the image as it is stored, not encoded again
    <cache>/sets/<fingerprint>/metadata.jsonl   {"file_name": "00000007.jpg", "text": "a red cube"}; written last

So captions, masks, buckets and the cache of latents are those of any other folder. Of several captions of an image the
first counts.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2f_core import install_command
from d2f_data.files.atomic import atomic_write
from d2f_data.fingerprints import json_digest

TABLE = "metadata.jsonl"
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}


@dataclass(frozen=True)
class LibrarySet:
    """What to load.

    Attributes:
        name: of the hub, or a local folder or parquet file.
        config: name of the configuration; None for the only one.
        image, caption: names of the columns.
    """

    name: str
    config: str | None = None
    image: str = "image"
    caption: str = "text"


def write_images(wanted: LibrarySet, cache: Path) -> Path:
    """The folder with the images and captions of a set, written into the cache if it is not there.

    Raises:
        ValueError: the library is missing, it cannot load the set, or a column is missing; names it.
    """
    rows = _load(wanted)
    for flag, column in (("--image_column", wanted.image), ("--caption_column", wanted.caption)):
        if column not in rows.column_names:
            raise ValueError(
                f"--dataset_name {wanted.name} has no column {column!r}; its columns are "
                f"{', '.join(rows.column_names)}: name one with {flag}"
            )
    folder = cache / "sets" / json_digest([rows._fingerprint, wanted.image, wanted.caption])[:16]
    if not (folder / TABLE).is_file():
        _write(rows, wanted, folder)
    return folder


def _load(wanted: LibrarySet) -> Any:
    """The training split, images as stored bytes."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"--dataset_name needs the package datasets, which is not installed; run {install_command('datasets')}, or "
            "give a folder of images with --train_data_dir"
        ) from error
    file = wanted.name.endswith(".parquet") and Path(wanted.name).is_file()
    source = ("parquet", wanted.config) if file else (wanted.name, wanted.config)
    try:
        rows = datasets.load_dataset(*source, split="train", **({"data_files": wanted.name} if file else {}))
        return rows.cast_column(wanted.image, datasets.Image(decode=False)) if wanted.image in rows.features else rows
    except Exception as error:  # the library raises many kinds, by what it finds
        raise ValueError(
            f"--dataset_name {wanted.name} cannot be loaded ({type(error).__name__}: {error}); check the name, "
            "--dataset_config_name and --image_column, or your access to the hub"
        ) from error


def _write(rows: Any, wanted: LibrarySet, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(rows):
        content = _bytes(row[wanted.image])
        name = f"{number:08}{_suffix(content, wanted.name, number)}"
        (folder / name).write_bytes(content)
        lines.append(json.dumps({"file_name": name, "text": _caption(row[wanted.caption])}))
    atomic_write(folder / TABLE, lambda file: file.write_text("\n".join(lines) + "\n", encoding="utf-8"))


def _bytes(image: Mapping[str, Any]) -> bytes:
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def _suffix(content: bytes, name: str, number: int) -> str:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return _SUFFIXES[str(image.format)]
    except (OSError, KeyError) as error:
        raise ValueError(
            f"row {number} of --dataset_name {name} holds no PNG, JPEG or WebP image ({error}); remove it from the set"
        ) from error


def _caption(value: Any) -> str:
    return str(value[0]) if isinstance(value, list | tuple) and value else str(value or "")
