"""Paired Folder: images and targets of two folders -> IMAGEs of the same size and crop, a batch a bucket."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...d2f_data.image_sets.folder import InvalidFile
from ...d2f_data.image_sets.set_report import list_files
from ...d2f_data.image_sets.target_pair_tensors import TargetPairTensors, describe_target_pairs, read_target_pairs
from ...d2f_data.image_sets.target_pairs import FLIPS, RawValues, TargetPairSettings, find_target_pairs, plan_rows
from .. import host
from ..widgets import CATEGORY, bucket_step_input, resolution_input, seed_input
from .folders import existing_folder, folder_state


class D2FPairedFolder(io.ComfyNode):
    """Reads pairs of pictures; both of a pair are cropped and mirrored alike."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="D2FPairedFolder",
            display_name="Paired Folder (Diff2Flow)",
            category=CATEGORY,
            description="Loads images and what belongs to them pixel by pixel (depth, edges, another style) from two "
            "folders, brought to the same size and crop, to train a model that turns the one into the other.",
            search_aliases=["paired images", "image pairs", "depth dataset", "image to image dataset", "load folder"],
            inputs=[
                _folder("images", "photos", "Folder of the images: an absolute path, or one inside ComfyUI's input"),
                _folder(
                    "targets", "depths", "Folder of the targets, each named as its image: absolute, or one in input"
                ),
                resolution_input(),
                io.DynamicCombo.Input(
                    "target_values",
                    options=[io.DynamicCombo.Option("color", []), io.DynamicCombo.Option("raw", _raw_widgets())],
                    tooltip="color: targets are pictures. raw: one value a pixel as it is stored (8-bit or 16-bit grey "
                    "PNG, 32-bit TIFF, .npy), such as metres.",
                ),
                io.Combo.Input(
                    "flip",
                    options=list(FLIPS),
                    default="off",
                    tooltip="Mirror left and right, image and target together. random: half of the pairs; both: each "
                    "pair is there twice, as it is and mirrored.",
                ),
                seed_input("Seed of the random flips."),
                bucket_step_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", tooltip="A batch a bucket, for VAE Encode. A list.", is_output_list=True
                ),
                io.Image.Output(
                    display_name="targets",
                    tooltip="What belongs to the images, in their order. Raw values are in all three channels, not "
                    "scaled to [0, 1]. A list.",
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
                    display_name="report", tooltip="Counts by bucket, memory, and the files left out and why."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, images: str | None = None, targets: str | None = None, **inputs: Any) -> str:
        """Names, sizes and times of all files; the host compares the other inputs itself."""
        return f"{folder_state(images)} {folder_state(targets)}"

    @classmethod
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
        places = existing_folder(images), existing_folder(targets)
        found = _load(*places, settings)
        names = [name for bucket in found.names for name in bucket]
        return io.NodeOutput(found.images, found.targets, found.valid, names, describe_target_pairs(found, *places))


def _load(images: Path, targets: Path, settings: TargetPairSettings) -> TargetPairTensors:
    """All pairs, with the host's progress bar. Raises ValueError if there is none."""
    pairs, odd = find_target_pairs(images, targets, settings.raw is not None)
    planned = plan_rows(pairs, settings, odd)
    *_, found = host.track(read_target_pairs(planned, settings.raw, odd), 1 + sum(map(len, planned)))
    if not found.names:
        raise ValueError(_nothing(images, targets, odd))
    return found


def _nothing(images: Path, targets: Path, odd: list[InvalidFile]) -> str:
    left_out = f". Left out were:\n{list_files(odd)}" if odd else ""
    return (
        f"there is no pair to train on in {images} and {targets}; give each image a target of the same name in the "
        f"other folder, such as a.jpg and a.png{left_out}"
    )


def _folder(name: str, example: str, tooltip: str) -> io.String.Input:
    return io.String.Input(name, default="", placeholder=example, tooltip=f"{tooltip} folder. Subfolders count.")


def _raw_widgets() -> list[io.Input]:
    return [
        io.Float.Input(
            "target_scale",
            default=1.0,
            min=1e-9,
            max=1e9,
            step=0.001,
            round=1e-9,
            tooltip="Factor of all values: 0.001 turns millimetres into metres.",
        ),
        io.Float.Input(
            "invalid_value",
            default=0.0,
            min=-1e9,
            max=1e9,
            step=1.0,
            round=1e-6,
            tooltip="The value, as it is stored, that marks pixels without a measurement. NaN and infinity always do.",
        ),
    ]
