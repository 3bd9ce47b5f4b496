"""Paired Folder: images and their targets in two folders -> IMAGEs of the same size and crop, one batch per bucket."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...d2f_data.image_sets.folder import InvalidFile
from ...d2f_data.image_sets.set_report import list_files
from ...d2f_data.image_sets.target_pair_tensors import TargetPairTensors, describe_target_pairs, read_target_pairs
from ...d2f_data.image_sets.target_pairs import FLIPS, RawValues, TargetPairSettings, find_target_pairs, plan_rows
from .. import host
from ..checks import checked, fault_of
from ..widgets import TRAIN, bucket_step_input, resolution_input, search_words, seed_input
from .folders import existing_folder, folder_state


class D2FPairedFolder(io.ComfyNode):
    """Reads images together with their targets and crops and mirrors both alike."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FPairedFolder",
            display_name="Paired Folder (Diff2Flow)",
            category=TRAIN,
            description="Loads images and their pixel-aligned targets (depth, edges, another style) from two folders, "
            "resized and cropped alike, to train a model that turns one into the other.",
            search_aliases=search_words("D2FPairedFolder"),
            is_output_node=True,
            inputs=[
                _folder("images", "photos", "Folder of the images"),
                _folder("targets", "depths", "Folder of the targets, each with the same name as its image"),
                resolution_input(),
                io.DynamicCombo.Input(
                    "target_values",
                    options=[io.DynamicCombo.Option("color", []), io.DynamicCombo.Option("raw", _raw_widgets())],
                    tooltip="color: targets are ordinary images. raw: one number per pixel, used as stored (8-bit or "
                    "16-bit grey PNG, 32-bit TIFF, .npy, .npz, .pfm), such as depth in metres.",
                ),
                io.Combo.Input(
                    "flip",
                    options=list(FLIPS),
                    default="off",
                    tooltip="Mirror image and target together, left to right. random: half of the pairs. both: every "
                    "pair twice, once as it is and once mirrored.",
                ),
                seed_input("Seed of the random flips."),
                bucket_step_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", tooltip="One batch per bucket, for VAE Encode. A list.", is_output_list=True
                ),
                io.Image.Output(
                    display_name="targets",
                    tooltip="The targets, in the order of the images. Raw values are repeated in all three channels "
                    "and not scaled to [0, 1]. A list.",
                    is_output_list=True,
                ),
                io.Mask.Output(
                    display_name="valid",
                    tooltip="White where the target is known, for Set Latent Noise Mask. A list.",
                    is_output_list=True,
                ),
                io.String.Output(
                    display_name="names",
                    tooltip="Names of the pairs, in the order of the images. A list.",
                    is_output_list=True,
                ),
                io.String.Output(
                    display_name="report", tooltip="Counts per bucket, memory, and which files were left out and why."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, images: str | None = None, targets: str | None = None, **inputs: Any) -> str:
        """State of the files in both folders; ComfyUI compares the other inputs itself."""
        return f"{folder_state(images)} {folder_state(targets)}"

    @classmethod
    def validate_inputs(
        cls, images: str | None = None, targets: str | None = None, target_values: Any = None
    ) -> bool | str:
        """Checked when the graph is queued; None is a value that comes through a wire. The host hands in the combo."""
        given = {"images": images, "targets": targets}
        return fault_of(*(partial(existing_folder, name, path) for name, path in given.items() if path is not None))

    @classmethod
    @checked()
    def execute(
        cls,
        images: str,
        targets: str,
        resolution: int,
        target_values: Mapping[str, Any],
        flip: str,
        seed: int,
        bucket_step: int,
    ) -> io.NodeOutput:
        raw = None
        if target_values["target_values"] == "raw":
            raw = RawValues(target_values["target_scale"], target_values["invalid_value"])
        settings = TargetPairSettings(resolution, bucket_step, flip, raw, seed)
        folders = existing_folder("images", images), existing_folder("targets", targets)
        loaded = _load(*folders, settings)
        names = [name for bucket in loaded.names for name in bucket]
        report = describe_target_pairs(loaded, *folders)
        return io.NodeOutput(loaded.images, loaded.targets, loaded.valid, names, report)


def _load(images: Path, targets: Path, settings: TargetPairSettings) -> TargetPairTensors:
    """Read all pairs and show the progress. Raises ValueError if there are none."""
    pairs, invalid = find_target_pairs(images, targets, settings.raw is not None)
    planned = plan_rows(pairs, settings, invalid)
    *_, loaded = host.track(read_target_pairs(planned, settings.raw, invalid), 1 + sum(map(len, planned)))
    if not loaded.names:
        raise ValueError(_no_pairs(images, targets, invalid))
    return loaded


def _no_pairs(images: Path, targets: Path, invalid: list[InvalidFile]) -> str:
    left_out = f". These files were left out:\n{list_files(invalid)}" if invalid else ""
    return (
        f"there are no pairs to train on in {images} and {targets}; every image needs a target of the same name in the "
        f"other folder, such as a.jpg and a.png{left_out}"
    )


def _folder(name: str, example: str, tooltip: str) -> io.String.Input:
    where = "an absolute path, or a path inside ComfyUI's input folder. Subfolders are included."
    return io.String.Input(name, default="", placeholder=example, tooltip=f"{tooltip}: {where}")


def _raw_widgets() -> list[io.Input]:
    return [
        io.Float.Input(
            "target_scale",
            default=1.0,
            min=1e-9,
            max=1e9,
            step=0.001,
            round=1e-9,
            tooltip="Factor that multiplies all values: 0.001 turns millimetres into metres.",
        ),
        io.Float.Input(
            "invalid_value",
            default=0.0,
            min=-1e9,
            max=1e9,
            step=1.0,
            round=1e-6,
            tooltip="Stored value that marks pixels without a measurement. NaN and infinity always mark them.",
        ),
    ]
