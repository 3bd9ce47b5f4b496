"""Where the training items of a command line come from: its flags, what they must not contradict, and the items."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from d2f_data.image_sets.augment import Augmentation
from d2f_data.image_sets.folder import CAPTION_SOURCES, Captions
from d2f_data.image_sets.samples import SetSettings
from d2f_data.image_sets.target_pairs import TargetPairSettings

from ..network import PipelineNetwork
from .items import FolderItems, Items, PairItems
from .library_sets import LibrarySet, write_images
from .target_items import COLOR, TARGET_VALUES, TargetFolders, TargetItems, raw_values


@dataclass(frozen=True)
class DataSource:
    """The flags about data; see their help. One of ``folder``, ``pairs`` and ``library`` is given."""

    folder: Path | None
    pairs: Path | None
    library: LibrarySet | None
    images: Path | None
    values: str
    captions: str
    caption: str
    prefix: str
    resolution: int
    repeats: int
    step: int
    flip: bool
    cache: Path

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.folder, self.pairs, self.library)) != 1:
            raise ValueError(
                "give one of --train_data_dir, a folder of images, --dataset_name, a data set of the library datasets, "
                "and --pairs_dir, a set of reflow pairs"
            )
        if self.images is not None and self.folder is None:
            raise ValueError("--conditioning_data_dir needs --train_data_dir, the folder of the targets")
        if self.images is None and self.values != COLOR:
            raise ValueError(f"--target_values {self.values} needs --conditioning_data_dir, the images of the targets")

    def items(self, network: PipelineNetwork) -> Items:
        """The training items, encoded."""
        if self.pairs is not None:
            return PairItems(network, self.pairs)
        folder = self.folder if self.library is None else write_images(self.library, self.cache)
        assert folder is not None
        return self._folder(network, folder) if self.images is None else self._targets(network, self.images, folder)

    def _folder(self, network: PipelineNetwork, folder: Path) -> FolderItems:
        settings = SetSettings(
            resolution=self.resolution,
            step=self.step,
            factor=int(network.pipeline.vae_scale_factor),
            repeats=self.repeats,
            augmentation=Augmentation(flip=self.flip),
        )
        source = self.captions if self.library is None else "jsonl"
        return FolderItems(network, folder, Captions(source, self.caption, self.prefix), settings, self.cache)

    def _targets(self, network: PipelineNetwork, images: Path, targets: Path) -> TargetItems:
        flip = "random" if self.flip else "off"
        settings = TargetPairSettings(self.resolution, self.step, flip, raw_values(self.values))
        return TargetItems(network, TargetFolders(images, targets, self.values, self.caption), settings)


def add_arguments(top: argparse.ArgumentParser) -> None:
    """The flags."""
    top.add_argument("--train_data_dir", type=Path, help="folder of images with captions, masks and aspect buckets")
    top.add_argument("--dataset_name", help="data set of the library datasets: a hub name, local folder or parquet")
    top.add_argument("--dataset_config_name", help="configuration of the data set")
    top.add_argument("--image_column", default="image", help="column of the data set with the images")
    top.add_argument("--caption_column", default="text", help="column of the data set with the captions")
    top.add_argument("--conditioning_data_dir", type=Path, help="images of which --train_data_dir holds the targets")
    top.add_argument("--target_values", choices=list(TARGET_VALUES), default=COLOR, help="what the targets' values are")
    top.add_argument("--pairs_dir", type=Path, help="set of reflow pairs, instead of images")
    top.add_argument("--captions", choices=CAPTION_SOURCES, default="auto", help="where captions come from")
    top.add_argument("--caption", default="", help="caption of images that have none")
    top.add_argument("--prefix", default="", help="text before every caption, such as a trigger word")
    top.add_argument("--resolution", type=int, default=512, help="side of the square bucket, in pixels")
    top.add_argument("--repeats", type=int, default=1, help="rows per image")
    top.add_argument("--bucket_step", type=int, default=64, help="sides of aspect buckets are multiples of it")
    top.add_argument("--random_flip", action="store_true", help="mirror half of the images")
    top.add_argument("--cache_dir", type=Path, help="of encoded images; default: cache in the output folder")


def data_source(options: argparse.Namespace) -> DataSource:
    """What the flags say.

    Raises:
        ValueError: they contradict each other.
    """
    columns = options.dataset_config_name, options.image_column, options.caption_column
    return DataSource(
        folder=options.train_data_dir,
        pairs=options.pairs_dir,
        library=None if options.dataset_name is None else LibrarySet(options.dataset_name, *columns),
        images=options.conditioning_data_dir,
        values=options.target_values,
        captions=options.captions,
        caption=options.caption,
        prefix=options.prefix,
        resolution=options.resolution,
        repeats=options.repeats,
        step=options.bucket_step,
        flip=options.random_flip,
        cache=options.cache_dir or options.output_dir / "cache",
    )
