"""Training items outside ComfyUI: latents of images with captions, or a set of reflow pairs.

Images, captions, masks, buckets, augmentation and caches are ``d2f_data``'s, as for the node Training Set from Folder;
encoded are they by the pipeline's own VAE and text encoders.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from d2f_core import Batch, TrainingData
from d2f_data.files.walk import walk
from d2f_data.fingerprints import items_fingerprint, text_digest
from d2f_data.image_sets.folder import Captions, find_training_images
from d2f_data.image_sets.latent_cache import Cache
from d2f_data.image_sets.report.facts import captions_in_set, set_facts
from d2f_data.image_sets.samples import Sample, SetSettings, plan_set
from d2f_data.image_sets.set_report import list_files
from d2f_data.image_sets.training_set import encode, encode_captions, gather
from d2f_data.reflow.pair_set import ReflowPairSet

from ..network import SIZES, Condition, PipelineNetwork
from .set_conditions import from_set


class Items(TrainingData, Protocol):
    """What a run knows of its training items."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Metadata of a LoRA file about the items, besides their number."""

    @property
    def dataset(self) -> Mapping[str, Any]:
        """Folders, tags, buckets and trigger words; {} where there are no captions."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Hash of all items, 16 hex digits."""


class LatentItems:
    """Latents with loss masks and conditions; those of one shape form a group.

    Args:
        network: the network that is trained.
        samples: latents of each group, (B, C, h, w), as the VAE returns them.
        masks: weights of their pixels, (B, 1, H, W), or None.
    """

    dataset: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, network: PipelineNetwork, samples: Sequence[Tensor], masks: Sequence[Tensor | None]) -> None:
        self.network, self.samples = network, samples
        self.masks = [_small(mask, latents) for mask, latents in zip(masks, samples)]
        sizes = [len(latents) for latents in samples]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.groups: Sequence[Sequence[int]] = [range(start, start + size) for start, size in zip(starts, sizes)]
        self.position = [(group, row) for group, size in enumerate(sizes) for row in range(size)]

    def __len__(self) -> int:
        return len(self.position)

    def batch(self, items: Sequence[int], drop: Sequence[bool]) -> Batch:
        """Items of one group, those with ``drop`` under the empty caption."""
        group = self.position[items[0]][0]
        rows = [self.position[item][1] for item in items]
        x0, mask = self.network.latents(self.samples[group][rows]), self.masks[group]
        conditions = [self.condition(item, dropped) for item, dropped in zip(items, drop)]
        return Batch(x0, joined(conditions), None if mask is None else mask[rows].to(x0.device))

    def condition(self, item: int, drop: bool = False) -> Condition:
        """Conditioning kwargs of an item, tensors (1, ...)."""
        raise NotImplementedError


class FolderItems(LatentItems):
    """The images of a folder.

    Args:
        network: encodes images and captions.
        folder: of the images.
        captions: where their captions come from.
        settings: buckets, repeats and augmentation.
        cache: folder for what is encoded.

    Raises:
        ValueError: there is no such folder, no image in it, or a file that cannot be used; names it.
    """

    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self, network: PipelineNetwork, folder: Path, captions: Captions, settings: SetSettings, cache: Path
    ) -> None:
        if not folder.is_dir():
            raise ValueError(f"--train_data_dir {folder} is not a folder; name a folder of images")
        images, invalid = find_training_images(folder, captions, False)
        latents, texts = Cache(cache / "latents"), Cache(cache / "captions")
        *_, plan = plan_set(images, settings, latents, pipeline_identity(network.pipeline, ("vae",)))
        if invalid or plan.invalid:
            listed = list_files([*invalid, *plan.invalid])
            raise ValueError(
                f"--train_data_dir {folder} has files that cannot be used; correct or remove them:\n{listed}"
            )
        if not plan.samples:
            found = len(list(walk(folder)))
            raise ValueError(f"--train_data_dir {folder} holds no images ({found} files); put PNG, JPEG or WebP there")
        for _ in encode(plan.missing, latents, network.encode_images):
            pass
        self._rows = [sample for bucket in plan.rows for sample in bucket]
        self.dataset = set_facts(captions_in_set(sample, folder.name, False) for sample in self._rows)
        self._captions: dict[str, list] = {}
        distinct = dict.fromkeys(["", *(sample.image.caption for sample in self._rows)])
        who = pipeline_identity(network.pipeline, ("text_encoder", "text_encoder_2"))
        for _ in encode_captions(distinct, texts, who, network.encode_caption, self._captions):
            pass
        gathered = [gather(bucket, latents) for bucket in plan.rows]
        super().__init__(network, [one["samples"] for one in gathered], [one.get("noise_mask") for one in gathered])

    def condition(self, item: int, drop: bool = False) -> Condition:
        """Conditioning kwargs of an item, tensors (1, ...)."""
        sample: Sample = self._rows[item]
        return self.network.condition(self._captions["" if drop else sample.image.caption], sample.sizes())

    def fingerprint(self) -> str:
        """Hash of all latents, masks and conditions, 16 hex digits."""
        masks = (mask for mask in self.masks if mask is not None)
        return items_fingerprint([*self.samples, *masks], map(self.condition, range(len(self))))


class PairItems:
    """The reflow pairs of a set that the node Generate Reflow Pairs has written.

    Raises:
        ValueError: the set is damaged, or of another kind of model; names it.
    """

    dataset: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, network: PipelineNetwork, folder: Path) -> None:
        self.network, self.pairs = network, ReflowPairSet(folder)
        teacher = self.pairs.settings["base_model"]
        if self.pairs.shape[0] != network.channels or teacher != network.kind:
            raise ValueError(
                f"--pairs_dir {folder} holds latents with {self.pairs.shape[0]} channels generated by {teacher}, but "
                f"this model is {network.kind or 'of another kind'}; generate pairs with the model that you train"
            )
        self.groups: Sequence[Sequence[int]] = self.pairs.groups
        null = network.condition(network.encode_caption(""), dict.fromkeys(SIZES, 0))
        self._null = {name: tensor for name, tensor in null.items() if name != "sizes"}  # those of the pair remain

    @property
    def facts(self) -> dict[str, Any]:
        """Metadata of a LoRA trained on the pairs: where paths start, and the set and its teacher."""
        known = {f"teacher_{name}": self.pairs.settings[name] for name in ("solver", "steps", "cfg", "base", "seed")}
        given = {name: value for name, value in known.items() if value is not None}
        windows = {"windows": self.pairs.windows} if self.pairs.windows > 1 else {}
        return {"start": "noise", "pairs": self.pairs.fingerprint, **windows, **given}

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, items: Sequence[int], drop: Sequence[bool]) -> Batch:
        """Some pairs, read from the disk, with the noise that belongs to them."""
        pairs = self.pairs.read(items)
        conditions = [from_set(condition, self.pairs.name) for condition in self.pairs.conditions(pairs.prompts)]
        conditions = [{**one, **self._null} if dropped else one for one, dropped in zip(conditions, drop)]
        device, waypoints = self.network.device, pairs.waypoints
        waypoints = None if waypoints is None else waypoints.to(device)
        return Batch(pairs.x0.to(device), joined(conditions), eps=pairs.eps.to(device), waypoints=waypoints)

    def fingerprint(self) -> str:
        """Hash of everything that determines the pairs, 16 hex digits."""
        return self.pairs.fingerprint


def joined(conditions: Sequence[Condition]) -> Condition:
    """Conditioning kwargs (B, ...) of items; those of one pipeline have one length."""
    return {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}


def pipeline_identity(pipeline: Any, parts: Sequence[str]) -> str:
    """Hash of the classes and of all weights of parts of a pipeline, for the keys of caches."""
    modules = [getattr(pipeline, part) for part in parts if getattr(pipeline, part, None) is not None]
    tensors = (weight for module in modules for weight in module.state_dict().values())
    return text_digest(" ".join(type(module).__name__ for module in modules) + items_fingerprint(tensors, ()))


def _small(mask: Tensor | None, samples: Tensor) -> Tensor | None:
    """Masks in pixels as loss weights (B, 1, h, w) per spatial position."""
    return None if mask is None else torch.nn.functional.interpolate(mask, samples.shape[-2:], mode="area")
