"""The adaptation task: teach the demo model a word that is new to it, and measure how well it was learned.

The training set of the demo model holds nothing cyan and nothing striped (`scenes.is_held_out`). A task
names the words to teach: they appear in all of its training scenes, everything else is random. The prompts
of the evaluation describe new scenes, alternating between full and short captions; some of them describe scenes
that the model knew before. Metrics:

    accuracy   fraction of images for prompts with the new words in which every prompted attribute is right
    new        the same for the attributes of the new words alone
    kept       fraction of images for known scenes in which every prompted attribute is right: a LoRA that
               renders everything in the new colour has not learned the word
    frechet    distance between the images for prompts with the new words and new renders, on the features
               of the attribute classifier (`reader`)

A prompt that names no texture counts as a prompt for a plain one, since captions always mention stripes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from .captions import caption, plain_caption
from .evaluate import encode_prompts, frechet_distance
from .reader import features, read_attributes
from .render import render_batch
from .scenes import ATTRIBUTES, Scene, make_scene, sample_scene

TASKS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"color": {"color": "cyan"}, "texture": {"texture": "striped"}}
)
"""Name of a task -> the new words of its scenes, all of them held out of the demo model's training."""

# Streams of random numbers: scenes for training, for prompts, and for reference renders.
_TRAIN, _ASK, _COMPARE = 1, 2, 3


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Training set of a task: N captions, latents (N, 4, 12, 12) of the demo VAE, and the captions as encoded by
    the demo CLIP, (N, 24, 128)."""

    captions: list[str]
    latents: Tensor
    context: Tensor


def new_scene(rng: np.random.Generator, task: str) -> Scene:
    """A random scene with the new words of a task and without other held-out words."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; allowed are {', '.join(map(repr, TASKS))}")
    known = sample_scene(rng)
    words = {name: getattr(known, name) for name in ATTRIBUTES}
    return make_scene(rng, **{**words, **TASKS[task]})


def training_set(clip: object, vae: object, task: str, count: int = 96, seed: int = 0) -> TrainingSet:
    """Render, caption and encode `count` scenes of a task.

    clip, vae: CLIP and VAE of the demo checkpoint.
    """
    rng = np.random.default_rng((seed, _TRAIN))
    scenes = [new_scene(rng, task) for _ in range(count)]
    captions = [caption(scene, rng) for scene in scenes]
    with torch.no_grad():
        latents = torch.cat([vae.encode(part) for part in render_batch(scenes)[0].split(32)])
        context = encode_prompts(clip, captions)[0][0]
    return TrainingSet(captions, latents.float().cpu().clone(), context.float().cpu().clone())


class Evaluation:
    """Prompts, and the metrics of the images that were generated for them.

    Args:
        task: one of `TASKS`.
        new, known: number of prompts with the new words, and of prompts for known scenes.
        references: number of renders that the images are compared with.
        seed: seed of all scenes; training sets never share a scene with an evaluation.

    Attributes:
        prompts: new + known texts, those with the new words first.
        wanted: attribute -> word that each image must show.
    """

    def __init__(self, task: str, new: int = 96, known: int = 32, references: int = 1024, seed: int = 0):
        rng = np.random.default_rng((seed, _ASK))
        scenes = [new_scene(rng, task) for _ in range(new)] + [sample_scene(rng) for _ in range(known)]
        self.task, self.new = task, new
        self.prompts = [short_caption(s) if i % 2 else plain_caption(s) for i, s in enumerate(scenes)]
        self.wanted = [words_of(scene, short=i % 2 == 1) for i, scene in enumerate(scenes)]
        rng = np.random.default_rng((seed, _COMPARE))
        self.reference = features(render_batch([new_scene(rng, task) for _ in range(references)])[0])

    def measure(self, images: Tensor) -> dict[str, float]:
        """Metrics of images (new + known, H, W, 3) in [0, 1], in the order of the prompts; see the module docstring."""
        read, new = read_attributes(images), self.new
        return {
            "accuracy": share_right(read[:new], self.wanted[:new]),
            "new": share_right(read[:new], self.wanted[:new], tuple(TASKS[self.task])),
            "kept": share_right(read[new:], self.wanted[new:]),
            "frechet": frechet_distance(features(images[:new]), self.reference),
        }


def short_caption(scene: Scene) -> str:
    """`a striped cyan sphere`: shape, colour, and the texture if it is not plain."""
    texture = "" if scene.texture == "plain" else scene.texture + " "
    return f"a {texture}{scene.color} {scene.shape}"


def words_of(scene: Scene, short: bool) -> dict[str, str]:
    """Attribute -> word for the attributes in the short or the full caption of a scene."""
    names = ("shape", "color", "texture") if short else tuple(ATTRIBUTES)
    return {name: getattr(scene, name) for name in names}


def share_right(
    read: Sequence[Mapping[str, str]], wanted: Sequence[Mapping[str, str]], names: Sequence[str] = tuple(ATTRIBUTES)
) -> float:
    """Fraction of images in which the words read equal all wanted ones, among the attributes `names`."""
    right = [all(r[name] == word for name, word in w.items() if name in names) for r, w in zip(read, wanted)]
    return sum(right) / len(right)
