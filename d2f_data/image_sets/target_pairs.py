"""Pairs of pictures: an image and what belongs to it pixel by pixel, such as its depth, edges or another style.

    photos/street/a.jpg     an image
    depths/street/a.png     its target: the same path in another folder, whatever the suffix

Both of a pair get the same aspect bucket, crop and flip; ``paired_tensors`` reads them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..fingerprints import known_file_digest
from .augment import Augmentation, Draw, draw
from .buckets import Bucket, Placement, make_buckets, nearest_bucket, place
from .folder import InvalidFile, walk
from .images import READABLE, UNREADABLE, InvalidImageError, read_size
from .raw_targets import RAW_READABLE, read_raw_size

ASPECT_TOLERANCE = 0.02
FLIPS = ("off", "random", "both")


@dataclass(frozen=True)
class RawValues:
    """How raw targets are read.

    Attributes:
        scale: factor of every value, for the unit.
        invalid: the value, as it is stored, of pixels that were not measured.
    """

    scale: float = 1.0
    invalid: float = 0.0


@dataclass(frozen=True)
class TargetPairSettings:
    """How pairs become rows.

    Attributes:
        resolution: side of the square bucket, pixels.
        step: sides of the other buckets are multiples of it, pixels.
        flip: "off", "random" (half of the pairs are mirrored), "both" (each pair is there twice).
        raw: how to read raw targets; None for targets of colours.
        seed: of the flips.
    """

    resolution: int = 512
    step: int = 64
    flip: str = "off"
    raw: RawValues | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.flip not in FLIPS:
            raise ValueError(f"unknown flip {self.flip!r}; allowed are {', '.join(FLIPS)}")


@dataclass(frozen=True)
class TargetPair:
    """An image and its target; ``name`` is the path of both within their folders, without a suffix."""

    name: str
    image: Path
    target: Path


@dataclass(frozen=True)
class Row:
    """A pair as it is read: its bucket, where the crop lies, whether it is mirrored."""

    pair: TargetPair
    bucket: Bucket
    placement: Placement
    drawn: Draw

    @property
    def name(self) -> str:
        """Of the pair, and whether it is mirrored."""
        return f"{self.pair.name} mirrored" if self.drawn.flip else self.pair.name


def find_target_pairs(images: Path, targets: Path, raw: bool) -> tuple[list[TargetPair], list[InvalidFile]]:
    """Pairs of two folders in the order of their names, and the files that have no partner or more than one.

    Args:
        images, targets: existing folders; one may lie in the other.
        raw: whether the targets are raw values, which may be .npy.

    Raises:
        ValueError: both are the same folder.
    """
    if images.resolve() == targets.resolve():
        raise ValueError(f"images and targets are the same folder ({images}); put the targets into one of their own")
    shown, odd = _by_stem(images, targets, READABLE, "image")
    wanted, more = _by_stem(targets, images, RAW_READABLE if raw else READABLE, "target")
    odd += more
    for one, other, what, where in ((shown, wanted, "image", targets), (wanted, shown, "target", images)):
        lonely = [stem for stem in one if stem not in other]
        odd += [InvalidFile(f"{what} {one[stem].name}", f"no file {stem}.* in {where}") for stem in lonely]
    return [TargetPair(stem, path, wanted[stem]) for stem, path in shown.items() if stem in wanted], odd


def _by_stem(folder: Path, other: Path, readable: set[str], what: str) -> tuple[dict[str, Path], list[InvalidFile]]:
    """Path within the folder without suffix -> file; what lies in the other folder is left out."""
    found: dict[str, Path] = {}
    odd = []
    nested = folder.resolve() in other.resolve().parents
    inside = f"{other.resolve().relative_to(folder.resolve()).as_posix()}/" if nested else None
    for name, path in walk(folder):
        suffix, stem = path.suffix.lower(), str(PurePosixPath(name).with_suffix(""))
        if inside is not None and name.startswith(inside):
            continue
        if suffix in UNREADABLE:
            odd.append(InvalidFile(f"{what} {name}", f"{suffix} cannot be read; save it as PNG or TIFF"))
        elif suffix in readable and stem in found:
            odd.append(InvalidFile(f"{what} {name}", f"{found[stem].name} has the same name; {path.name} is left out"))
        elif suffix in readable:
            found[stem] = path
    return found, odd


def plan_rows(pairs: Sequence[TargetPair], settings: TargetPairSettings, odd: list[InvalidFile]) -> list[list[Row]]:
    """Rows, a list a bucket, from the headers of the files; those that do not fit are added to ``odd``."""
    buckets = make_buckets(settings.resolution, settings.step)
    planned: dict[Bucket, list[Row]] = {}
    for pair in pairs:
        try:
            rows = _plan_pair(pair, settings, buckets)
        except InvalidImageError as error:
            odd.append(InvalidFile(pair.name, str(error)))
        else:
            planned.setdefault(rows[0].bucket, []).extend(rows)
    return [planned[bucket] for bucket in sorted(planned)]


def _plan_pair(pair: TargetPair, settings: TargetPairSettings, buckets: list[Bucket]) -> list[Row]:
    with blaming(pair.image):
        width, height = read_size(pair.image)
    with blaming(pair.target):
        other = read_raw_size(pair.target) if settings.raw else read_size(pair.target)
    if abs(other[0] * height / (other[1] * width) - 1) > ASPECT_TOLERANCE:
        raise InvalidImageError(
            f"the target is {other[0]} x {other[1]}, of another shape than the image ({width} x {height}); both must "
            "show the same field"
        )
    bucket = nearest_bucket(width, height, buckets)
    return [Row(pair, bucket, place(width, height, bucket), drawn) for drawn in _draws(pair, settings)]


def _draws(pair: TargetPair, settings: TargetPairSettings) -> list[Draw]:
    """What is drawn for each row of a pair."""
    if settings.flip == "off":
        return [Draw()]
    digest, variants = known_file_digest(pair.image), 2 if settings.flip == "both" else 1
    draws = [draw(Augmentation(flip=True), settings.seed, digest, variant) for variant in range(variants)]
    return sorted((Draw(flip=drawn.flip) for drawn in draws), key=lambda drawn: drawn.flip)


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """OddImageErrors in the block name the file."""
    try:
        yield
    except InvalidImageError as error:
        raise InvalidImageError(f"{path.name}: {error}") from None
