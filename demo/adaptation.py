"""The adaptation task: teach the demo model a word it has never seen, and grade how well it learned.

Its training never showed anything cyan nor anything striped (`scenes.is_held_out`). A task names the words
to teach; all its training scenes show them, all else is drawn at random. Prompts of the exam are of fresh
scenes, full captions and short ones in turn; some ask for what the model knew before. Grades:

    accuracy   share of images with the new words in the prompt whose every asked attribute is read right
    new        the same for the attributes of the new words alone
    kept       share of images of known scenes whose every asked attribute is read right: a LoRA that paints
               everything in the new colour has not learned the word
    frechet    distance of the images with the new words to fresh renders on the reader's features

A texture that is not named counts as asked for, as plain: captions always name stripes.
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
    {"color": {"color": "cyan"}, "texture": {"texture": "striped"}})
"""Name of a task -> the new words of its scenes; all of them held out of the demo model's training."""

# Streams of random numbers: scenes to train on, to ask for, to compare with.
_TRAIN, _ASK, _COMPARE = 1, 2, 3


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a LoRA of a task is trained on: N texts, latents (N, 4, 12, 12) of the demo VAE, and the texts through
    the demo CLIP, (N, 24, 128)."""

    captions: list[str]
    latents: Tensor
    context: Tensor


def new_scene(rng: np.random.Generator, task: str) -> Scene:
    """A scene with the task's new words; other held-out words stay out of it."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; allowed are {', '.join(map(repr, TASKS))}")
    known = sample_scene(rng)
    words = {name: getattr(known, name) for name in ATTRIBUTES}
    return make_scene(rng, **{**words, **TASKS[task]})


def training_set(clip: object, vae: object, task: str, count: int = 96, seed: int = 0) -> TrainingSet:
    """Render, caption and encode `count` scenes of a task."""
    rng = np.random.default_rng((seed, _TRAIN))
    scenes = [new_scene(rng, task) for _ in range(count)]
    captions = [caption(scene, rng) for scene in scenes]
    with torch.no_grad():
        latents = torch.cat([vae.encode(part) for part in render_batch(scenes)[0].split(32)])
        context = encode_prompts(clip, captions)[0][0]
    return TrainingSet(captions, latents.float().cpu().clone(), context.float().cpu().clone())


class Exam:
    """Prompts, and the grades of the images that were made for them.

    Args:
        task: one of `TASKS`.
        new, known: number of prompts with the new words, and of prompts for what the model knows.
        references: renders that images are compared with.
        seed: of all scenes; training sets never share a scene with an exam.

    Attributes:
        prompts: new + known texts, those with the new words first.
        wanted: the words that each image must show.
    """

    def __init__(self, task: str, new: int = 96, known: int = 32, references: int = 1024, seed: int = 0):
        rng = np.random.default_rng((seed, _ASK))
        scenes = [new_scene(rng, task) for _ in range(new)] + [sample_scene(rng) for _ in range(known)]
        self.task, self.new = task, new
        self.prompts = [short_caption(s) if i % 2 else plain_caption(s) for i, s in enumerate(scenes)]
        self.wanted = [asked(scene, short=i % 2 == 1) for i, scene in enumerate(scenes)]
        rng = np.random.default_rng((seed, _COMPARE))
        self.reference = features(render_batch([new_scene(rng, task) for _ in range(references)])[0])

    def grade(self, images: Tensor) -> dict[str, float]:
        """Grades of images (new + known, H, W, 3) in [0, 1], in the order of the prompts; see the module's head."""
        read, new = read_attributes(images), self.new
        return {"accuracy": share_right(read[:new], self.wanted[:new]),
                "new": share_right(read[:new], self.wanted[:new], tuple(TASKS[self.task])),
                "kept": share_right(read[new:], self.wanted[new:]),
                "frechet": frechet_distance(features(images[:new]), self.reference)}


def short_caption(scene: Scene) -> str:
    """`a striped cyan sphere`: shape, colour, and the texture if it is not plain."""
    texture = "" if scene.texture == "plain" else scene.texture + " "
    return f"a {texture}{scene.color} {scene.shape}"


def asked(scene: Scene, short: bool) -> dict[str, str]:
    """The words that the short or the full caption of a scene asks for."""
    names = ("shape", "color", "texture") if short else tuple(ATTRIBUTES)
    return {name: getattr(scene, name) for name in names}


def share_right(read: Sequence[Mapping[str, str]], wanted: Sequence[Mapping[str, str]],
                names: Sequence[str] = tuple(ATTRIBUTES)) -> float:
    """Share of images whose wanted words, of the attributes `names`, are all read."""
    right = [all(r[name] == word for name, word in w.items() if name in names) for r, w in zip(read, wanted)]
    return sum(right) / len(right)
