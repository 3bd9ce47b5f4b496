"""Inputs of Training Set from Folder that came later: behind all others, as saved graphs keep widgets by place."""

from typing import Any

from comfy_api.latest import io

from ...d2f_data.image_sets.captions.settings import LINES
from ..widgets import choice, integer, number

TRANSPARENCY = ("white", "mask")
FITS = ("crop", "pad")


def later_inputs() -> list[io.Input]:
    """How captions are read and varied, masks, further folders, how images are fitted.

    Optional, so that prompts that were saved for the API before there were any still run.
    """
    inputs = [*_captions(), *_masks(), *_tags(), *_folders()]
    for one in inputs:
        one.optional = True
    return inputs


def later_defaults() -> dict[str, Any]:
    """Their values where a prompt has none."""
    return {one.id: one.default for one in later_inputs()}


def _captions() -> list[io.Input]:
    return [
        io.Boolean.Input(
            "prompt_weights",
            default=False,
            tooltip="Read captions as prompts: (red:1.3) is weighted and embedding:name loads a file. Off, they are "
            "trained as they are written, brackets included, as in other trainers.",
            advanced=True,
        ),
        io.String.Input(
            "caption_extension",
            default="",
            placeholder=".txt, else .caption",
            tooltip="Extension of the caption files, such as .tags. Empty: .txt, or .caption where there is no .txt.",
            advanced=True,
        ),
        choice(
            "caption_lines",
            LINES,
            "joined",
            "What several lines in a caption are. joined: one caption. first: only the first line is used. random: "
            "captions of their own, one of which is drawn per epoch.",
        ),
    ]


def _masks() -> list[io.Input]:
    return [
        choice(
            "transparency",
            TRANSPARENCY,
            "white",
            "What is done with transparent parts of an image. white: they are laid on white and learned. mask: they "
            "are not learned, unless the image has a mask file, which then counts.",
        ),
        number(
            "unmasked_weight",
            0.0,
            0.0,
            1.0,
            0.05,
            "Weight of the loss where a mask is black. 0: nothing is learned there; 0.1 keeps the surroundings in "
            "order.",
            0.01,
            advanced=True,
        ),
    ]


def _tags() -> list[io.Input]:
    return [
        io.Boolean.Input(
            "shuffle_tags",
            default=False,
            tooltip="Vary the order of the tags in captions that are lists with commas.",
            advanced=True,
        ),
        integer(
            "keep_tokens",
            1,
            0,
            100,
            "Number of tags at the start of a caption that are neither shuffled nor dropped. The prefix always stays.",
            advanced=True,
        ),
        number(
            "tag_dropout",
            0.0,
            0.0,
            0.95,
            0.05,
            "Probability with which each of the other tags is dropped. 0 is off.",
            0.01,
            advanced=True,
        ),
        integer(
            "caption_variants",
            4,
            1,
            100,
            "Captions per image that tag shuffle and tag dropout make. All are encoded once; the trainer draws one of "
            "them per epoch.",
            advanced=True,
        ),
    ]


def _folders() -> list[io.Input]:
    return [
        io.String.Input(
            "more_folders",
            default="",
            multiline=True,
            placeholder="photos_2 | repeats 3 | weight 0.5",
            tooltip="Further folders, one per line, each with options behind bars: repeats 3, weight 0.5 (of the "
            "loss), regularisation.",
            advanced=True,
        ),
        number(
            "regularisation_weight",
            1.0,
            0.0,
            10.0,
            0.05,
            "Weight of the loss of regularisation images: those in a subfolder named reg, and in folders marked as "
            "regularisation. They show the class without the trigger word, and get no prefix.",
            0.01,
            advanced=True,
        ),
        choice(
            "fit",
            FITS,
            "crop",
            "How an image is fitted to its bucket. crop: what does not fit is cut off. pad: the whole image is kept, "
            "its edges are repeated around it, and nothing is learned there.",
        ),
        io.String.Input(
            "more_resolutions",
            default="",
            placeholder="768, 1024",
            tooltip="Further resolutions in pixels, separated by commas: every image is trained on at each of them.",
            advanced=True,
        ),
    ]
