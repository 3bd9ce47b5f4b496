"""Training Set from Folder: images and captions -> LATENTs and CONDITIONINGs, cached on disk."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ...d2f_data.image_sets.captions.weights import has_prompt_syntax
from ...d2f_data.image_sets.folder import FolderContents
from ...d2f_data.image_sets.latent_cache import Cache, folder_size
from ...d2f_data.image_sets.pixels.store import PixelStore
from ...d2f_data.image_sets.report.cuts import cut_notes, transparency_note
from ...d2f_data.image_sets.report.facts import SetCaption, captions_in_set
from ...d2f_data.image_sets.samples import Sample, SetPlan, SetSettings, plan_set
from ...d2f_data.image_sets.set_report import EncodingStats, InvalidFilesError, contact_sheet, describe, list_files
from ...d2f_data.image_sets.training_set import batches, encode, encode_captions, gather, with_options
from .. import host
from ..checks import checked, fault_of
from ..widgets import TRAIN, search_words
from .folders import existing_folder, folder_state
from .later_widgets import later_defaults, later_inputs
from .more_folders import parse_folders, read_folders
from .settings import captions_of, resolutions, settings_of
from .widgets import dataset_inputs


class D2FFolderDataset(io.ComfyNode):
    """Encodes the images and captions of a folder once; later runs read them from the cache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FFolderDataset",
            display_name="Training Set from Folder (Diff2Flow)",
            category=TRAIN,
            description="Turns a folder of images and captions into latents and conditionings for training. Images are "
            "sorted into aspect ratio buckets, encoded once and cached on disk, so the next run takes seconds.",
            search_aliases=search_words("D2FFolderDataset"),
            is_output_node=True,
            inputs=[*dataset_inputs(), *later_inputs()],
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
                    tooltip="What to look at first, counts per bucket and what is cut off, captions and where they "
                    "come from, and which files were left out and why.",
                ),
                io.Image.Output(
                    display_name="contact_sheet",
                    tooltip="Up to 16 images as the model is trained on them, with their buckets and captions; what a "
                    "mask leaves out is tinted red.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, more_folders: str | None = None, **inputs: Any) -> str:
        """State of the folders' files; ComfyUI compares the other inputs itself."""
        try:
            more = [entry.folder for entry in parse_folders(more_folders or "")]
        except ValueError:
            more = []
        return " ".join(map(folder_state, [folder, *more]))

    @classmethod
    def validate_inputs(
        cls, folder: str | None = None, more_folders: str | None = None, more_resolutions: str | None = None
    ) -> bool | str:
        """Checked when the graph is queued; None is a value that comes through a wire."""

        def check() -> None:
            if folder is not None:
                existing_folder("folder", folder)
            for entry in parse_folders(more_folders or ""):
                existing_folder("more_folders", entry.folder)
            resolutions(more_resolutions or "")

        return fault_of(check)

    @classmethod
    @checked()
    def execute(cls, clip, vae, folder: str, **widgets: Any) -> io.NodeOutput:
        host.check_models(clip, vae)
        root, widgets = existing_folder("folder", folder), {**later_defaults(), **widgets}
        settings = settings_of(widgets, host.latent_factor(vae))
        more, reg_weight = parse_folders(widgets["more_folders"]), widgets["regularisation_weight"]
        contents = read_folders(root, more, captions_of(widgets), widgets["folder_repeats"], reg_weight)
        with PixelStore(host.cache_folder()) as store:
            plan = _plan(vae, contents, settings, store)
            _check(plan, root, widgets["odd_files"])
            encoded = _encode_all(clip, vae, root, plan, settings, contents, widgets["prompt_weights"], store)
        return io.NodeOutput(*encoded)


def _plan(vae: Any, contents: FolderContents, settings: SetSettings, store: PixelStore) -> SetPlan:
    """The samples of a folder, and its invalid files: first those with an invalid caption, then invalid images."""
    steps = plan_set(contents.images, settings, _cache("latents"), host.vae_identity(vae), store)
    *_, plan = host.track(steps, len(contents.images))
    plan.invalid[:0] = contents.invalid
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


def _encode_all(
    clip: Any,
    vae: Any,
    root: Path,
    plan: SetPlan,
    settings: SetSettings,
    contents: FolderContents,
    prompt_weights: bool,
    store: PixelStore,
) -> tuple[Any, ...]:
    """The outputs of the node. Captions are encoded before images, so that ComfyUI loads each model only once."""
    rows = [sample for bucket in plan.rows for sample in bucket]
    written = [caption for sample in plan.samples for caption in sample.image.captions]
    conditionings, encoded = _encode_captions(clip, written, prompt_weights)
    _encode_missing(vae, plan, store)
    sizes = host.takes_sizes(clip)
    of_sample = {
        sample: _conditioning(captions_in_set(sample, root.name, prompt_weights), sample, conditionings, sizes)
        for sample in plan.samples
    }
    positive = [of_sample[sample] for sample in rows]
    latents = [_latent(bucket, settings) for bucket in plan.rows]
    stats = EncodingStats(
        latents_cached=len(plan.samples) - len(plan.missing),
        latents_encoded=len(plan.missing),
        captions_cached=len(conditionings) - encoded,
        captions_encoded=encoded,
        cache_bytes=folder_size(host.cache_folder()),
    )
    notes = [*contents.notes, *cut_notes(plan.samples), *transparency_note(plan.samples)]
    if notes:
        host.tell("Training Set from Folder: " + "; ".join(notes))
    report = describe(root, host.cache_folder(), plan, settings, stats, contents, prompt_weights, notes)
    negative = with_options(conditionings[""], {host.TEXT_KEY: SetCaption("", prompt_weights)})
    return latents, positive, negative, report, contact_sheet(plan.samples, store=store)


def _conditioning(captions: Sequence[SetCaption], sample: Sample, conditionings: dict[str, list], sizes: bool) -> list:
    """The CONDITIONING of a sample's first caption, with those of its other captions among its options."""
    own = sample.sizes() if sizes else {}
    every = [with_options(conditionings[one.text], {**own, host.TEXT_KEY: one}) for one in captions]
    first, *others = every
    return with_options(first, {host.CAPTIONS_KEY: [one[0] for one in others]}) if others else first


def _latent(rows: list[Sample], settings: SetSettings) -> dict[str, Any]:
    """The LATENT of a bucket, with the loss weights of its rows if they are not all 1."""
    latent: dict[str, Any] = gather(rows, _cache("latents"), settings.unmasked)
    weights = [sample.image.weight for sample in rows]
    return latent if set(weights) == {1.0} else {**latent, host.WEIGHTS_KEY: torch.tensor(weights)}


def _encode_captions(clip: Any, captions: list[str], prompt_weights: bool) -> tuple[dict[str, list], int]:
    """The CONDITIONING of each caption and of the empty one, and how many of them were not in the cache."""
    conditionings: dict[str, list] = {}
    distinct = dict.fromkeys(["", *captions])

    def encode_caption(text: str) -> list:
        return host.encode_caption(clip, text, prompt_weights)

    literal = () if prompt_weights else tuple(filter(has_prompt_syntax, distinct))
    identity = host.clip_identity(clip)
    steps = encode_captions(distinct, _cache("captions"), identity, encode_caption, conditionings, literal)
    *_, encoded = host.track(steps, len(distinct))
    return conditionings, encoded


def _encode_missing(vae: Any, plan: SetPlan, store: PixelStore) -> None:
    """Encode the latents that the cache lacks; a cancelled run keeps every finished batch in the cache."""
    steps = encode(plan.missing, _cache("latents"), partial(host.encode_images, vae), store)
    for _ in host.track(steps, len(list(batches(plan.missing)))):
        pass


def _cache(kind: str) -> Cache:
    return Cache(host.cache_folder() / kind)
