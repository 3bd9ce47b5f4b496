"""Caption files: ``cat.txt`` beside ``cat.png``, and files that were probably meant as one.

cat.TXT, Cat.txt      another letter case: found on some systems and not on others
cat.png.txt           the whole name of the image
cat.txt.txt           an extension that the system hides
cat.tags              an extension that was not asked for
"""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from .settings import InvalidCaptionError

_OTHER_SUFFIXES = (".txt", ".caption", ".captions", ".text", ".tags", ".cap")


class CaptionFiles:
    """The caption files of a folder.

    Args:
        names: of all files, relative to the folder, with forward slashes.
        suffixes: extensions of caption files; the first one that is there counts.
    """

    def __init__(self, names: Iterable[str], suffixes: Sequence[str]) -> None:
        self.suffixes = tuple(suffixes)
        self.names = set(names)
        self._lower: dict[str, str] = {}
        for name in sorted(self.names, reverse=True):
            self._lower[name.lower()] = name

    def of(self, image: str) -> list[str]:
        """Names of the caption files of an image, those that count first."""
        stem = PurePosixPath(image).with_suffix("")
        return [name for name in (f"{stem}{suffix}" for suffix in self.suffixes) if name in self.names]

    def near_miss(self, image: str) -> str:
        """What is beside the image and almost its caption file, and the remedy; "" if there is nothing."""
        stem, right = str(PurePosixPath(image).with_suffix("")), self.suffixes[0]
        wanted = f"{PurePosixPath(stem).name}{right}"
        suffixes = dict.fromkeys((*self.suffixes, *_OTHER_SUFFIXES))
        for suffix in suffixes:
            exact = f"{stem}{suffix}"
            if suffix not in self.suffixes and exact in self.names:
                return (
                    f"{PurePosixPath(exact).name} is beside it, but caption files are {' and '.join(self.suffixes)}; "
                    f"set 'caption_extension' to {suffix}"
                )
            for candidate in (exact, f"{image}{suffix}", f"{exact}{suffix}"):
                found = self._lower.get(candidate.lower())
                if found is not None and found != exact:
                    return f"{PurePosixPath(found).name} is beside it; rename it to {wanted}"
        return ""

    def without_image(self, images: Iterable[str]) -> list[str]:
        """Names of caption files that belong to no image."""
        stems = {str(PurePosixPath(image).with_suffix("")).lower() for image in images}
        stems |= {image.lower() for image in images}
        ends = [(name, suffix) for name in sorted(self.names) for suffix in self.suffixes if name.endswith(suffix)]
        return [name for name, suffix in ends if name.removesuffix(suffix).lower() not in stems]


def read_text(path: Path) -> str:
    """The text of a caption file. Raises InvalidCaptionError if it cannot be read as UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidCaptionError(
            f"{path.name} is not UTF-8 ({error.reason} at byte {error.start}); save it with UTF-8 encoding"
        ) from None
    except OSError as error:
        raise InvalidCaptionError(f"{path.name} cannot be read ({error.strerror}); check its permissions") from None
    if "\0" in text:
        raise InvalidCaptionError(f"{path.name} is not a text file; write the caption as UTF-8 text")
    return text
