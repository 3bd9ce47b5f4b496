"""Pairs of an image and its target (depth, edges, another style) as training items: image to image.

    --conditioning_data_dir photos/a.jpg    concatenated with the noisy latent
    --train_data_dir        depths/a.png    what is learned; with --target_values depth, one number per pixel

They are read, cropped and scaled as by the nodes Paired Folder and Depth Target, at the defaults of their widgets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from d2f_core import depth_range, depth_target, valid_pixels
from d2f_data.fingerprints import items_fingerprint
from d2f_data.image_sets.buckets import Bucket
from d2f_data.image_sets.set_report import list_files
from d2f_data.image_sets.target_pair_tensors import TargetPairTensors, read_target_pairs
from d2f_data.image_sets.target_pairs import RawValues, TargetPairSettings, find_target_pairs, plan_rows

from ..network import CONCAT, Condition, PipelineNetwork
from .items import LatentItems

COLOR = "color"
TARGET_VALUES: Mapping[str, Callable[[Tensor], Tensor] | None] = MappingProxyType(
    {COLOR: None, "depth": lambda values: values, "disparity": lambda values: 1 / values}
)
"""What a target's values are -> values to depth; None for ordinary images."""
_ENCODED = 4  # pictures that the VAE encodes at once


@dataclass(frozen=True)
class TargetFolders:
    """Folders of image-target pairs.

    Attributes:
        images, targets: the folders; files of one name belong together.
        values: a name of ``TARGET_VALUES``.
        caption: prompt of all pairs.
    """

    images: Path
    targets: Path
    values: str = COLOR
    caption: str = ""


class TargetItems(LatentItems):
    """The pairs of two folders.

    Args:
        network: a widened one; it encodes images and captions.
        folders: the folders.
        settings: buckets, flips, and how targets are read.

    Raises:
        ValueError: a folder is missing, there are no pairs, or a file cannot be used; names it.
    """

    facts: Mapping[str, Any] = MappingProxyType({"start": "noise", "condition": "image"})

    def __init__(self, network: PipelineNetwork, folders: TargetFolders, settings: TargetPairSettings) -> None:
        found = _read(folders, settings)
        pictures, masks = _targets(found, folders.values)
        super().__init__(network, [_encoded(network, one) for one in pictures], masks)
        self.images = [_encoded(network, one) for one in found.images]
        encoded = [network.encode_caption(caption) for caption in (folders.caption, "")]
        self._texts = [[network.condition(one, _sizes(bucket)) for one in encoded] for bucket in found.buckets]

    def condition(self, item: int, drop: bool = False) -> Condition:
        """Conditioning kwargs of an item, tensors (1, ...); a dropped caption leaves the image."""
        group, row = self.position[item]
        return {**self._texts[group][drop], CONCAT: self.network.latents(self.images[group][row : row + 1])}

    def fingerprint(self) -> str:
        """Hash of all latents, masks, image conditions and captions, 16 hex digits."""
        masks = [mask for mask in self.masks if mask is not None]
        return items_fingerprint(
            [*self.samples, *masks, *self.images], (self._texts[group][0] for group, _ in self.position)
        )


def _read(folders: TargetFolders, settings: TargetPairSettings) -> TargetPairTensors:
    for flag, folder in (("--train_data_dir", folders.targets), ("--conditioning_data_dir", folders.images)):
        if not folder.is_dir():
            raise ValueError(f"{flag} {folder} is not a folder; name a folder of images")
    raw = settings.raw is not None
    pairs, invalid = find_target_pairs(folders.images, folders.targets, raw)
    *_, found = read_target_pairs(plan_rows(pairs, settings, invalid), settings.raw, invalid)
    if found.invalid or not found.names:
        what = f"files that cannot be used; correct or remove them:\n{list_files(found.invalid)}" if invalid else "none"
        raise ValueError(
            f"--conditioning_data_dir {folders.images} and --train_data_dir {folders.targets} must hold images of the "
            f"same names, such as a.jpg and a.png; they have {what}"
        )
    return found


def raw_values(values: str) -> RawValues | None:
    """How targets are read: raw for depth and disparity, None for colours."""
    return None if TARGET_VALUES[values] is None else RawValues()


def _targets(found: TargetPairTensors, values: str) -> tuple[list[Tensor], list[Tensor | None]]:
    """Pictures (B, H, W, 3) in [0, 1] to learn, and masks (B, 1, H, W) of their valid pixels; None for all."""
    to_depth = TARGET_VALUES[values]
    if to_depth is None:
        return found.targets, [None] * len(found.targets)
    pictures, masks = list[Tensor](), list[Tensor | None]()
    for target, known in zip(found.targets, found.valid):
        depth = to_depth(target.mean(-1))
        valid = valid_pixels(depth, known)
        picture = (depth_target(depth, valid, limits=depth_range(depth, valid)) + 1) / 2
        pictures.append(picture[..., None].repeat(1, 1, 1, 3))
        masks.append(valid.float()[:, None])
    return pictures, masks


def _encoded(network: PipelineNetwork, pictures: Tensor) -> Tensor:
    return torch.cat([network.encode_images(part) for part in pictures.split(_ENCODED)])


def _sizes(bucket: Bucket) -> dict[str, int]:
    """SDXL's size conditioning of latents of a size in pixels, as the host fills it in."""
    own = {"width": bucket.width, "height": bucket.height, "crop_w": 0, "crop_h": 0}
    return {**own, "target_width": bucket.width, "target_height": bucket.height}
