"""Inputs of Training Set from Folder."""

from comfy_api.latest import io

from ...d2f_data.image_sets.folder import CAPTION_SOURCES
from ..widgets import bucket_step_input, resolution_input


def dataset_inputs() -> list[io.Input]:
    """All inputs; rarely needed ones come last."""
    return [
        io.Clip.Input("clip", tooltip="CLIP of the model that you want to train; encodes the captions."),
        io.Vae.Input("vae", tooltip="VAE of the model that you want to train; encodes the images."),
        io.String.Input(
            "folder",
            default="",
            placeholder="my_photos",
            tooltip="Folder of the images: an absolute path, or a path inside ComfyUI's input folder. Subfolders are "
            "included.",
        ),
        resolution_input(),
        io.Combo.Input(
            "captions",
            options=list(CAPTION_SOURCES),
            default="auto",
            tooltip="Where captions come from. auto: photo.txt or photo.caption next to photo.png, else its line in a "
            "table (.jsonl, .csv, .tsv, .json), else the name of a folder such as 10_sks dog. none: all images get the "
            "caption below.",
        ),
        io.String.Input(
            "caption",
            default="",
            multiline=True,
            tooltip="Caption for images that have none. If it is empty, an image without a caption counts as invalid.",
        ),
        io.String.Input(
            "prefix",
            default="",
            placeholder="trigger word",
            tooltip="Text that is prepended to every caption with a comma, such as a trigger word for what is learned.",
        ),
        io.Int.Input(
            "repeats",
            default=1,
            min=1,
            max=1000,
            tooltip="Rows per image in the latents. Increase it if there are fewer images than items per batch.",
        ),
        io.Int.Input(
            "variants",
            default=1,
            min=1,
            max=100,
            tooltip="Encoded versions per image; they differ in flip, crop and colour below.",
        ),
        io.Boolean.Input(
            "flip",
            default=False,
            tooltip="Mirror half of the images, or every second variant, left to right. Leave it off for text, faces "
            "and anything where left and right differ.",
        ),
        _fraction("crop", 0.9, "Largest part of a side that a random crop removes. 0 crops at the centre."),
        _fraction("colour", 1.0, "Strength of random brightness, contrast, saturation and hue; 0.1 is mild, 0 is off."),
        io.Combo.Input(
            "odd_files",
            options=["stop", "skip"],
            default="stop",
            tooltip="What to do with files that cannot be used (damaged, animated, without a caption). stop: list all "
            "of them in an error before anything is encoded. skip: leave them out and list them in the report.",
        ),
        io.Combo.Input(
            "upscale",
            options=["allow", "skip"],
            default="allow",
            tooltip="What to do with images smaller than their bucket. allow: enlarge them. skip: leave them out and "
            "list them in the report.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=False,
            tooltip="Seed of flip, crop and colour. After a change, all augmented images are encoded again.",
        ),
        bucket_step_input(),
        io.Boolean.Input(
            "folder_repeats",
            default=False,
            tooltip="Whether the images of a subfolder named 10_cats get 10 repeats, as in kohya's trainer.",
            advanced=True,
        ),
    ]


def _fraction(name: str, most: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=0.0, min=0.0, max=most, step=0.05, round=0.01, tooltip=tooltip)
