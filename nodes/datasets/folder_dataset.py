"""Training Set from Folder: images and captions -> latents and conditioning, cached on disk."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...d2f_data.image_sets.augment import Augmentation
from ...d2f_data.image_sets.folder import Captions, find_items
from ...d2f_data.image_sets.latent_cache import Cache, folder_size
from ...d2f_data.image_sets.samples import SetPlan, SetSettings, survey
from ...d2f_data.image_sets.set_report import InvalidFilesError, Work, contact_sheet, describe, list_files
from ...d2f_data.image_sets.training_set import batches, encode, encode_captions, gather, with_sizes
from .. import host
from ..widgets import CATEGORY
from .folders import existing_folder, folder_state
from .widgets import dataset_inputs


class D2FFolderDataset(io.ComfyNode):
    """Encodes a folder once; later runs read the cache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FFolderDataset",
            display_name="Training Set from Folder (Diff2Flow)",
            category=CATEGORY,
            description="Turns a folder of images and captions into latents and conditioning for training. Images go "
            "to aspect buckets; they are encoded once and kept on disk, so that the next run takes seconds.",
            search_aliases=["dataset", "training images", "captions", "aspect buckets", "load folder", "diff2flow"],
            inputs=dataset_inputs(),
            outputs=[
                io.Latent.Output(
                    display_name="latents",
                    tooltip="A LATENT a bucket, with loss masks where there are any. A list, for the trainer.",
                    is_output_list=True,
                ),
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="A CONDITIONING an image, in the order of the latents. A list, for the trainer.",
                    is_output_list=True,
                ),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The empty prompt, for caption dropout and for previews."
                ),
                io.String.Output(
                    display_name="report", tooltip="Counts by bucket, what was encoded, and the files left out and why."
                ),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="Up to 16 images as they are trained on, with their buckets."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **inputs: Any) -> str:
        """Names, sizes and times of all files; the host compares the other inputs itself."""
        return folder_state(folder)

    @classmethod
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
        place = existing_folder(folder)
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
        plan = _plan(vae, place, Captions(captions, caption, prefix), folder_repeats, settings)
        _check(plan, place, odd_files)
        return io.NodeOutput(*_encoded(clip, vae, place, plan, settings))


def _plan(vae: Any, place: Path, captions: Captions, folder_repeats: bool, settings: SetSettings) -> SetPlan:
    """What the folder gives, with the odd files of captions and of images."""
    items, odd = find_items(place, captions, folder_repeats)
    steps = survey(items, settings, _cache("latents"), host.vae_identity(vae))
    *_, plan = host.track(steps, len(items))
    plan.odd[:0] = odd
    return plan


def _check(plan: SetPlan, place: Path, odd_files: str) -> None:
    """Refuse odd files if the user wants that, and a folder that gives nothing."""
    if plan.odd and odd_files == "stop":
        raise InvalidFilesError(place, plan.odd)
    if not plan.samples:
        left_out = list_files(plan.odd + plan.small)
        raise ValueError(
            f"there is no image to train on in {place}; put PNG, JPEG or WebP files there, each with a .txt of the "
            "same name that describes it" + (f". Left out were:\n{left_out}" if left_out else "")
        )


def _encoded(clip: Any, vae: Any, place: Path, plan: SetPlan, settings: SetSettings) -> tuple[Any, ...]:
    """All outputs; captions first, so that the host loads each model once."""
    rows = [sample for bucket in plan.rows for sample in bucket]
    conditionings, new = _conditionings(clip, [sample.item.caption for sample in rows])
    _encode_missing(vae, plan)
    told = {sample: conditionings[sample.item.caption] for sample in plan.samples}
    if host.takes_sizes(clip):
        told = {sample: with_sizes(conditioning, sample.sizes()) for sample, conditioning in told.items()}
    positive = [told[sample] for sample in rows]
    latents = [gather(bucket, _cache("latents")) for bucket in plan.rows]
    cached = len(plan.samples) - len(plan.missing), len(conditionings) - new
    work = Work(cached[0], len(plan.missing), cached[1], new, folder_size(host.cache_folder()))
    report = describe(place, host.cache_folder(), plan, settings, work)
    return latents, positive, conditionings[""], report, contact_sheet(rows)


def _conditionings(clip: Any, captions: list[str]) -> tuple[dict[str, list], int]:
    """The conditioning of each caption and of the empty one, and how many were encoded for it."""
    found: dict[str, list] = {}
    prompts = dict.fromkeys(["", *captions])
    identity = host.clip_identity(clip)
    steps = encode_captions(prompts, _cache("captions"), identity, lambda text: host.encode_caption(clip, text), found)
    *_, new = host.track(steps, len(prompts))
    return found, new


def _encode_missing(vae: Any, plan: SetPlan) -> None:
    """Latents that the cache lacks, into the cache; a cancel loses the batch in work and no other."""
    steps = encode(plan.missing, _cache("latents"), lambda pixels: host.encode_images(vae, pixels))
    for _ in host.track(steps, len(list(batches(plan.missing)))):
        pass


def _cache(room: str) -> Cache:
    return Cache(host.cache_folder() / room)
