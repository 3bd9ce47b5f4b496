"""Training Set from Folder: images and captions -> LATENTs and CONDITIONINGs, cached on disk."""

from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...d2f_data.image_sets.augment import Augmentation
from ...d2f_data.image_sets.folder import Captions, find_training_images
from ...d2f_data.image_sets.latent_cache import Cache, folder_size
from ...d2f_data.image_sets.samples import SetPlan, SetSettings, plan_set
from ...d2f_data.image_sets.set_report import EncodingStats, InvalidFilesError, contact_sheet, describe, list_files
from ...d2f_data.image_sets.training_set import batches, encode, encode_captions, gather, with_sizes
from .. import host
from ..checks import checked, fault_of
from ..widgets import CATEGORY
from .folders import existing_folder, folder_state
from .widgets import dataset_inputs


class D2FFolderDataset(io.ComfyNode):
    """Encodes the images and captions of a folder once; later runs read them from the cache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FFolderDataset",
            display_name="Training Set from Folder (Diff2Flow)",
            category=CATEGORY,
            description="Turns a folder of images and captions into latents and conditionings for training. Images are "
            "sorted into aspect ratio buckets, encoded once and cached on disk, so the next run takes seconds.",
            search_aliases=["dataset", "training images", "captions", "aspect buckets", "load folder", "diff2flow"],
            inputs=dataset_inputs(),
            outputs=[
                io.Latent.Output(
                    display_name="latents",
                    tooltip="One LATENT per bucket, with loss masks if there are any. A list for the trainer.",
                    is_output_list=True,
                ),
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="One CONDITIONING per row of the latents, in their order. A list for the trainer.",
                    is_output_list=True,
                ),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The empty prompt, for caption dropout and previews."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Counts per bucket, what was encoded, and which files were left out and why.",
                ),
                io.Image.Output(
                    display_name="contact_sheet",
                    tooltip="Up to 16 images as the model is trained on them, labelled with their buckets.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **inputs: Any) -> str:
        """State of the folder's files; ComfyUI compares the other inputs itself."""
        return folder_state(folder)

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        """Checked when the graph is queued; None is a value that comes through a wire."""
        return folder is None or fault_of(lambda: existing_folder("folder", folder))

    @classmethod
    @checked()
    def execute(
        cls,
        clip,
        vae,
        folder: str,
        resolution: int,
        captions: str,
        caption: str,
        prefix: str,
        repeats: int,
        variants: int,
        flip: bool,
        crop: float,
        colour: float,
        odd_files: str,
        upscale: str,
        seed: int,
        bucket_step: int,
        folder_repeats: bool,
    ) -> io.NodeOutput:
        host.check_models(clip, vae)
        root = existing_folder("folder", folder)
        settings = SetSettings(
            resolution=resolution,
            step=bucket_step,
            factor=host.latent_factor(vae),
            repeats=repeats,
            variants=variants,
            augmentation=Augmentation(flip, crop, colour),
            upscale=upscale == "allow",
            seed=seed,
        )
        plan = _plan(vae, root, Captions(captions, caption, prefix), folder_repeats, settings)
        _check(plan, root, odd_files)
        return io.NodeOutput(*_encode_all(clip, vae, root, plan, settings))


def _plan(vae: Any, root: Path, captions: Captions, folder_repeats: bool, settings: SetSettings) -> SetPlan:
    """The samples of a folder, and its invalid files: first those with an invalid caption, then invalid images."""
    items, invalid = find_training_images(root, captions, folder_repeats)
    steps = plan_set(items, settings, _cache("latents"), host.vae_identity(vae))
    *_, plan = host.track(steps, len(items))
    plan.invalid[:0] = invalid
    return plan


def _check(plan: SetPlan, root: Path, odd_files: str) -> None:
    """Raise ValueError for invalid files, unless the widget says skip, and for a folder without any usable image."""
    if plan.invalid and odd_files == "stop":
        raise InvalidFilesError(root, plan.invalid)
    if not plan.samples:
        left_out = list_files(plan.invalid + plan.small)
        raise ValueError(
            f"there are no images to train on in {root}; put PNG, JPEG or WebP files there, each with a .txt file of "
            "the same name that holds its caption" + (f". These files were left out:\n{left_out}" if left_out else "")
        )


def _encode_all(clip: Any, vae: Any, root: Path, plan: SetPlan, settings: SetSettings) -> tuple[Any, ...]:
    """The outputs of the node. Captions are encoded before images, so that ComfyUI loads each model only once."""
    rows = [sample for bucket in plan.rows for sample in bucket]
    conditionings, encoded = _encode_captions(clip, [sample.image.caption for sample in rows])
    _encode_missing(vae, plan)
    of_sample = {sample: conditionings[sample.image.caption] for sample in plan.samples}
    if host.takes_sizes(clip):
        of_sample = {sample: with_sizes(conditioning, sample.sizes()) for sample, conditioning in of_sample.items()}
    positive = [of_sample[sample] for sample in rows]
    latents = [gather(bucket, _cache("latents")) for bucket in plan.rows]
    stats = EncodingStats(
        latents_cached=len(plan.samples) - len(plan.missing),
        latents_encoded=len(plan.missing),
        captions_cached=len(conditionings) - encoded,
        captions_encoded=encoded,
        cache_bytes=folder_size(host.cache_folder()),
    )
    report = describe(root, host.cache_folder(), plan, settings, stats)
    return latents, positive, conditionings[""], report, contact_sheet(rows)


def _encode_captions(clip: Any, captions: list[str]) -> tuple[dict[str, list], int]:
    """The CONDITIONING of each caption and of the empty one, and how many of them were not in the cache."""
    conditionings: dict[str, list] = {}
    distinct = dict.fromkeys(["", *captions])

    def encode_caption(text: str) -> list:
        return host.encode_caption(clip, text)

    steps = encode_captions(distinct, _cache("captions"), host.clip_identity(clip), encode_caption, conditionings)
    *_, encoded = host.track(steps, len(distinct))
    return conditionings, encoded


def _encode_missing(vae: Any, plan: SetPlan) -> None:
    """Encode the latents that the cache lacks; a cancelled run keeps every finished batch in the cache."""
    steps = encode(plan.missing, _cache("latents"), partial(host.encode_images, vae))
    for _ in host.track(steps, len(list(batches(plan.missing)))):
        pass


def _cache(kind: str) -> Cache:
    return Cache(host.cache_folder() / kind)
