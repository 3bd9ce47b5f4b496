"""Sockets and widgets of Training Set from Folder."""

from comfy_api.latest import io

from ...d2f_data.image_sets.folder import CAPTION_SOURCES
from ..widgets import bucket_step_input, resolution_input


def dataset_inputs() -> list[io.Input]:
    """All of them, those that are rarely needed last."""
    return [
        io.Clip.Input("clip", tooltip="Encodes the captions: the CLIP of the model that is to be trained."),
        io.Vae.Input("vae", tooltip="Encodes the images: the VAE of the model that is to be trained."),
        io.String.Input(
            "folder",
            default="",
            placeholder="my_photos",
            tooltip="Folder of the images: an absolute path, or one inside ComfyUI's input folder. Subfolders are "
            "searched, too.",
        ),
        resolution_input(),
        io.Combo.Input(
            "captions",
            options=list(CAPTION_SOURCES),
            default="auto",
            tooltip="Where captions come from. auto: photo.txt beside photo.png, else the line of a .jsonl file whose "
            "key file is photo.png; its key caption counts. none: all images get the caption below.",
        ),
        io.String.Input(
            "caption",
            default="",
            multiline=True,
            tooltip="Caption of images that have none. Empty: an image without a caption is an odd file.",
        ),
        io.String.Input(
            "prefix",
            default="",
            placeholder="trigger word",
            tooltip="Put before every caption, with a comma, such as the word that is to call up what is learnt.",
        ),
        io.Int.Input(
            "repeats",
            default=1,
            min=1,
            max=1000,
            tooltip="Rows an image gets in the latents. Raise it when there are fewer images than a batch has items.",
        ),
        io.Int.Input(
            "variants",
            default=1,
            min=1,
            max=100,
            tooltip="Encoded versions of each image; they differ by flip, crop and colour below.",
        ),
        io.Boolean.Input(
            "flip",
            default=False,
            tooltip="Mirror left and right: half of the images, or every second variant. Not for text, faces or sides.",
        ),
        _fraction("crop", 0.9, "Largest part of a side that a random crop leaves out. 0 crops at the centre."),
        _fraction("colour", 1.0, "Strength of random brightness, contrast, saturation and hue; 0.1 is mild, 0 is off."),
        io.Combo.Input(
            "odd_files",
            options=["stop", "skip"],
            default="stop",
            tooltip="Files that cannot be used (damaged, animated, without caption): stop names all of them before "
            "anything is encoded, skip trains without them and names them in the report.",
        ),
        io.Combo.Input(
            "upscale",
            options=["allow", "skip"],
            default="allow",
            tooltip="Images smaller than their bucket: allow enlarges them, skip leaves them out and says so.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=False,
            tooltip="Seed of flip, crop and colour. A new seed encodes all augmented images again.",
        ),
        bucket_step_input(),
        io.Boolean.Input(
            "folder_repeats",
            default=False,
            tooltip="A subfolder named 10_cats gives its images 10 repeats, as in kohya's trainer.",
            advanced=True,
        ),
    ]


def _fraction(name: str, most: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=0.0, min=0.0, max=most, step=0.05, round=0.01, tooltip=tooltip)
