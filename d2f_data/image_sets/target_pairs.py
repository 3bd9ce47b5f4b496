"""Image-target pairs: an image and its per-pixel target, such as depth, edges or the image in another style.

    photos/street/a.jpg     an image
    depths/street/a.png     its target: the same path in another folder, with any suffix

Image and target of a pair get the same aspect ratio bucket, crop and flip; ``target_pair_tensors`` reads them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..files.walk import walk
from ..fingerprints import cached_file_digest
from .augment import Augmentation, AugmentationParams, sample_params
from .buckets import Bucket, Placement, make_buckets, nearest_bucket, place
from .folder import InvalidFile
from .images import READABLE, UNREADABLE, InvalidImageError, read_size
from .raw_targets import RAW_READABLE, read_raw_size

ASPECT_TOLERANCE = 0.02
FLIPS = ("off", "random", "both")


@dataclass(frozen=True)
class RawValues:
    """How raw targets are read.

    Attributes:
        scale: factor that multiplies every value, such as 0.001 for millimetres to metres.
        invalid: stored value that marks invalid pixels.
    """

    scale: float = 1.0
    invalid: float = 0.0


@dataclass(frozen=True)
class TargetPairSettings:
    """Settings of a set of image-target pairs.

    Attributes:
        resolution: side of the square bucket, in pixels.
        step: the sides of all other buckets are multiples of this many pixels.
        flip: "off", "random" (half of the pairs are mirrored) or "both" (each pair twice, once mirrored).
        raw: how to read raw targets; None for colour targets.
        seed: seed of the random flips.
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
    """An image and its target; ``name`` is the path of both relative to their folders, without the suffix."""

    name: str
    image: Path
    target: Path


@dataclass(frozen=True)
class Row:
    """A pair with its bucket, its crop and its flip."""

    pair: TargetPair
    bucket: Bucket
    placement: Placement
    params: AugmentationParams

    @property
    def name(self) -> str:
        """Name of the pair, with "mirrored" added if it is."""
        return f"{self.pair.name} mirrored" if self.params.flip else self.pair.name


def find_target_pairs(images: Path, targets: Path, raw: bool) -> tuple[list[TargetPair], list[InvalidFile]]:
    """The pairs of two folders sorted by name, and the files without exactly one counterpart.

    Args:
        images, targets: existing folders; one may be inside the other.
        raw: whether the targets are raw values, which may be .npy files.

    Raises:
        ValueError: both are the same folder.
    """
    if images.resolve() == targets.resolve():
        raise ValueError(f"images and targets are the same folder ({images}); put the targets into a separate folder")
    kinds = RAW_READABLE if raw else READABLE
    of_images, other_images, invalid = _by_stem(images, targets, READABLE, "image")
    of_targets, other_targets, invalid_targets = _by_stem(targets, images, kinds, "target")
    invalid += invalid_targets
    for one, other, unreadable, what, where in (
        (of_images, of_targets, other_targets, "image", f"{targets}"),
        (of_targets, of_images, other_images, "target", f"{images}"),
    ):
        for stem in (stem for stem in one if stem not in other):
            near = f" that can be read; {unreadable[stem]} cannot" if stem in unreadable else ""
            invalid.append(InvalidFile(f"{what} {one[stem].name}", f"no file {stem}.* in {where}{near}"))
    pairs = [TargetPair(stem, path, of_targets[stem]) for stem, path in of_images.items() if stem in of_targets]
    return pairs, invalid


def _by_stem(
    folder: Path, other: Path, readable: set[str], what: str
) -> tuple[dict[str, Path], dict[str, str], list[InvalidFile]]:
    """Relative path without suffix -> file, and -> name of a file of another kind; the files that cannot be used.

    Files in the other folder are ignored if it is inside this one.
    """
    found: dict[str, Path] = {}
    others: dict[str, str] = {}
    invalid = []
    nested = folder.resolve() in other.resolve().parents
    inside = f"{other.resolve().relative_to(folder.resolve()).as_posix()}/" if nested else None
    for name, path in walk(folder):
        suffix, stem = path.suffix.lower(), str(PurePosixPath(name).with_suffix(""))
        if inside is not None and name.startswith(inside):
            continue
        if suffix in UNREADABLE:
            invalid.append(InvalidFile(f"{what} {name}", f"{suffix} cannot be read; save it as PNG or TIFF"))
        elif suffix in readable and stem in found:
            invalid.append(InvalidFile(f"{what} {name}", f"{found[stem].name} has the same name; remove one of them"))
        elif suffix in readable:
            found[stem] = path
        else:
            others[stem] = path.name
    return found, others, invalid


def plan_rows(pairs: Sequence[TargetPair], settings: TargetPairSettings, invalid: list[InvalidFile]) -> list[list[Row]]:
    """One list of rows per bucket, planned from the file headers; unusable pairs are appended to ``invalid``."""
    buckets = make_buckets(settings.resolution, settings.step)
    planned: dict[Bucket, list[Row]] = {}
    for pair in pairs:
        try:
            rows = _plan_pair(pair, settings, buckets)
        except InvalidImageError as error:
            invalid.append(InvalidFile(pair.name, str(error)))
        else:
            planned.setdefault(rows[0].bucket, []).extend(rows)
    return [planned[bucket] for bucket in sorted(planned)]


def _plan_pair(pair: TargetPair, settings: TargetPairSettings, buckets: list[Bucket]) -> list[Row]:
    with errors_name(pair.image):
        width, height = read_size(pair.image)
    with errors_name(pair.target):
        other = read_raw_size(pair.target) if settings.raw else read_size(pair.target)
    if abs(other[0] * height / (other[1] * width) - 1) > ASPECT_TOLERANCE:
        raise InvalidImageError(
            f"the target is {other[0]} x {other[1]}, but the image is {width} x {height}, which is another aspect "
            "ratio; both must cover the same area"
        )
    bucket = nearest_bucket(width, height, buckets)
    return [Row(pair, bucket, place(width, height, bucket), params) for params in _flips(pair, settings)]


def _flips(pair: TargetPair, settings: TargetPairSettings) -> list[AugmentationParams]:
    """The augmentation parameters of each row of a pair: only the flip varies."""
    if settings.flip == "off":
        return [AugmentationParams()]
    digest, variants = cached_file_digest(pair.image), 2 if settings.flip == "both" else 1
    augmentation = Augmentation(flip=True)
    flips = [sample_params(augmentation, settings.seed, digest, variant).flip for variant in range(variants)]
    return [AugmentationParams(flip=flip) for flip in sorted(flips)]


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Add the file's name to InvalidImageErrors that are raised in the block."""
    try:
        yield
    except InvalidImageError as error:
        raise InvalidImageError(f"{path.name}: {error}") from None
