"""Which files of a training folder are loss masks, and of which image.

    cat.jpg    cat-masklabel.png         beside it, with OneTrainer's suffix
    cat.jpg    masks/cat.png             in a folder masks or mask beside it
    sub/cat.jpg    masks/sub/cat.png     or in one above, with the same folders below
    cat.jpg    masks/cat.jpg.png         with the whole name of the image

Any type of image and any letter case will do. A file in a mask folder is never a picture to train on; one with the
suffix is none unless no image has its name and it has a caption of its own.
"""

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from ..images import READABLE

MASK_FOLDERS = ("masks", "mask")
MASK_SUFFIX = "-masklabel"


class MaskPairing:
    """Images and masks among the files of a folder.

    Args:
        names: of all files, relative to the folder, with forward slashes.
        has_caption: whether an image has a caption of its own; asked only for a mask by its suffix without an image.
    """

    def __init__(self, names: Iterable[str], has_caption: Callable[[str], bool]) -> None:
        pictures = sorted(name for name in names if PurePosixPath(name).suffix.lower() in READABLE)
        wanted = {name: _image_of(name) for name in pictures}
        stems = {_stem(name) for name, image in wanted.items() if image is None}
        stems |= {name.lower() for name, image in wanted.items() if image is None}
        self._of: dict[str, list[str]] = {}
        self._is_mask: set[str] = set()
        for name, image in wanted.items():
            if image is None:
                continue
            if image not in stems and not _in_mask_folder(name) and has_caption(name):
                continue
            self._is_mask.add(name)
            self._of.setdefault(image, []).append(name)
        self._pictures = [name for name in pictures if name not in self._is_mask]

    @property
    def unused(self) -> list[str]:
        """Masks that no image has, or of which it has another one that counts."""
        return sorted(self._is_mask - {self.of(name) for name in self._pictures})

    def is_mask(self, name: str) -> bool:
        """Whether an image file is a loss mask."""
        return name in self._is_mask

    def of(self, name: str) -> str | None:
        """Name of the mask of an image: one with the suffix before one in a folder; None without one."""
        found = self._of.get(_stem(name), []) + self._of.get(name.lower(), [])
        found = sorted(found, key=lambda mask: (_in_mask_folder(mask), mask))
        return found[0] if found else None


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).lower()


def _in_mask_folder(name: str) -> bool:
    return any(folder.lower() in MASK_FOLDERS for folder in PurePosixPath(name).parts[:-1])


def _image_of(name: str) -> str | None:
    """Lower-case name, without its extension, of the image that a file would be the mask of; None for a picture."""
    path = PurePosixPath(_stem(name))
    if _in_mask_folder(name):
        kept = [folder for folder in path.parts[:-1] if folder not in MASK_FOLDERS]
        return str(PurePosixPath(*kept, path.name.removesuffix(MASK_SUFFIX)))
    return str(path.with_name(path.name.removesuffix(MASK_SUFFIX))) if path.name.endswith(MASK_SUFFIX) else None
