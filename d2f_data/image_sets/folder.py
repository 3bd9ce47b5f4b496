"""The contents of a training folder: images with their captions and masks, and the files that cannot be used.

    photos/cat.png             an image
    photos/cat.txt             its caption, UTF-8; or a line in a table, or a name: ``captions``
    photos/cat-masklabel.png   its loss mask (or photos/masks/cat.png): white is trained on; ``masks``
    photos/reg/1_dog/a.png     a regularisation image, of what the trigger word is not: it gets no prefix

Subfolders are searched, too. Files outside of the folder are never opened.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..files.walk import walk
from .captions.finder import CaptionFinder, FoundCaption, NoCaptionError
from .captions.names import folder_repeats as repeats_of
from .captions.settings import CAPTION_SOURCES, Captions, InvalidCaptionError
from .images import READABLE, UNREADABLE, InvalidFile
from .masks.pairing import MaskPairing

__all__ = [
    "CAPTION_SOURCES",
    "Captions",
    "FolderContents",
    "InvalidFile",
    "TrainingImage",
    "find_training_images",
    "read_folder",
]
REGULARISATION_FOLDERS = ("reg", "regularisation", "regularization", "reg_images", "class_images")
_SHOWN = 5


@dataclass(frozen=True)
class TrainingImage:
    """An image to train on, with its captions.

    Attributes:
        path: path of the image file.
        name: path relative to the training folder, with forward slashes.
        caption: the text to encode, including the prefix.
        repeats: repeats from the name of the image's own folder (``10_name``), else 1.
        mask: path of its loss mask, if it has one.
        others: further captions; one of all is drawn per epoch.
        regularisation: whether it shows what the trigger word is not.
        weight: of its loss.
        alpha: whether its transparency is its loss mask.
    """

    path: Path
    name: str
    caption: str
    repeats: int = 1
    mask: Path | None = None
    others: tuple[str, ...] = ()
    regularisation: bool = False
    alpha: bool = False
    weight: float = 1.0

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions of the image, one or more."""
        return (self.caption, *self.others)

    @property
    def masked(self) -> bool:
        """Whether it has a loss mask."""
        return self.mask is not None or self.alpha


@dataclass
class FolderContents:
    """What is in a training folder.

    Attributes:
        images: the images to train on, sorted by name.
        invalid: the files that cannot be used.
        notes: what the user should know, a sentence each.
        origins: where captions come from -> number of images.
    """

    images: list[TrainingImage] = field(default_factory=list)
    invalid: list[InvalidFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    origins: Counter[str] = field(default_factory=Counter)


def find_training_images(
    folder: Path, captions: Captions | None = None, folder_repeats: bool = False
) -> tuple[list[TrainingImage], list[InvalidFile]]:
    """The images in a folder and its subfolders, sorted by name, and the files that cannot be used.

    Args:
        folder: an existing folder.
        captions: where captions come from.
        folder_repeats: whether images in a folder named ``10_name`` are repeated 10 times.
    """
    found = read_folder(folder, captions, folder_repeats)
    return found.images, found.invalid


def read_folder(folder: Path, captions: Captions | None = None, folder_repeats: bool = False) -> FolderContents:
    """The contents of a folder and its subfolders; arguments as in ``find_training_images``."""
    captions = captions or Captions()
    files = list(walk(folder))
    finder = CaptionFinder(folder, files, captions)
    masks = MaskPairing((name for name, _ in files), finder.has_own)
    contents = FolderContents(invalid=finder.invalid)
    without: list[tuple[str, InvalidFile]] = []
    faults: list[InvalidFile] = []
    found: dict[str, FoundCaption] = {}
    for name, path in files:
        suffix = path.suffix.lower()
        if suffix in UNREADABLE:
            contents.invalid.append(InvalidFile(name, f"{path.suffix} cannot be read; save it as PNG or JPEG"))
        if suffix not in READABLE or masks.is_mask(name):
            continue
        try:
            found[name] = finder.find(name)
        except NoCaptionError as error:
            without.append((name, InvalidFile(name, str(error))))
        except InvalidCaptionError as error:
            faults.append(InvalidFile(name, str(error)))
    if captions.start and not found and not faults:  # a folder that is meant to have no captions
        found = {name: FoundCaption((), "prefix alone") for name, _ in without}
    else:
        contents.invalid += [*faults, *(file for _, file in without)]
    paths = dict(files)
    for name, caption in found.items():
        mask = masks.of(name)
        texts = captions.finish(caption.lines, name, not _is_regularisation(name))
        contents.origins[caption.origin] += 1
        contents.images.append(
            TrainingImage(
                path=paths[name],
                name=name,
                caption=texts[0],
                repeats=repeats_of(name) if folder_repeats else 1,
                mask=paths[mask] if mask else None,
                others=texts[1:],
                regularisation=_is_regularisation(name),
            )
        )
    contents.notes = [*finder.notes(), *_notes(contents.images, masks.unused, folder_repeats)]
    return contents


def _is_regularisation(name: str) -> bool:
    """Whether an image is in a folder of regularisation images at the top of the training folder."""
    parts = PurePosixPath(name).parts
    return len(parts) > 1 and parts[0].lower() in REGULARISATION_FOLDERS


def _notes(images: list[TrainingImage], unused_masks: list[str], folder_repeats: bool) -> list[str]:
    """Sentences about masks without an image, and about folders with a number that is not used."""
    notes = []
    if unused_masks:
        notes.append(
            f"loss masks that no image uses, or uses another one instead of ({len(unused_masks)}): "
            f"{listed(unused_masks)}; a mask has the name of its image"
        )
    numbered = sorted({str(PurePosixPath(image.name).parent) for image in images if repeats_of(image.name) > 1})
    if numbered and not folder_repeats:
        notes.append(f"the number of repeats in {listed(numbered)} is not used; turn on 'folder_repeats' to use it")
    return notes


def listed(names: list[str]) -> str:
    """The first few names."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
