"""Captions of scenes, with random synonyms and randomly omitted clauses, so that short prompts work too.

"a large red sphere on the left, blue background", "small red ball" and "a picture of a cone in front of a
tan wall" are all possible. `VOCABULARY` lists every word that can occur; each of them is one token.
"""

import numpy as np

from .scenes import ATTRIBUTES, Scene

SYNONYMS = {
    "sphere": ("sphere", "ball"),
    "cube": ("cube", "box"),
    "cone": ("cone",),
    "cylinder": ("cylinder", "tube"),
    "ring": ("ring", "donut"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "gray": ("gray", "grey"),
    "purple": ("purple", "violet"),
    "black": ("black", "dark"),
    "center": ("center", "middle"),
}
PREFIXES = ("a", "a", "a", "", "a picture of a", "a render of a", "the", "one")
_PLACES = ("on the {}", "at the {}", "in the {}", "{}")
_BACKGROUNDS = ("{} background", "{} wall", "in front of a {} wall", "with a {} background")
_EXTRA_WORDS = (
    "an and is it its to by near behind under over photo image painting drawing scene object thing toy",
    "floor light shadow shiny matte soft bright checkered dotted spotted textured round square tall flat",
    "silver gold brown teal magenta lime torus pyramid star heart triangle depth map style no not",
)

# Probability that a clause is omitted.
DROP = {"size": 0.35, "texture": 0.85, "position": 0.40, "background": 0.40, "color": 0.04, "shape": 0.03}


def _word(rng: np.random.Generator, name: str) -> str:
    """A random synonym of an attribute's word; the word itself with a probability of at least one half."""
    options = SYNONYMS.get(name, (name,))
    return name if rng.random() < 0.5 else str(options[rng.integers(len(options))])


def caption(scene: Scene, rng: np.random.Generator, drop: bool = True) -> str:
    """A random caption of the scene; with drop=False it names every attribute except a plain texture."""

    def kept(name: str) -> bool:
        if name == "texture" and scene.texture != "plain":
            return True
        return rng.random() >= (DROP[name] if drop or name == "texture" else 0.0)

    noun = _word(rng, scene.shape) if kept("shape") else "object"
    adjectives = [_word(rng, getattr(scene, name)) for name in ("size", "texture", "color") if kept(name)]
    text = " ".join([PREFIXES[rng.integers(len(PREFIXES))], *adjectives, noun]).strip()
    if kept("position"):
        text += " " + _PLACES[rng.integers(len(_PLACES))].format(_word(rng, scene.position))
    if kept("background"):
        phrase = _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))]
        joint = " " if phrase.startswith(("in", "with")) or rng.random() < 0.2 else ", "
        text += joint + phrase.format(_word(rng, scene.background))
    return text


def plain_caption(scene: Scene) -> str:
    """The canonical full caption, e.g. "a large red sphere on the left, blue background"."""
    texture = "" if scene.texture == "plain" else scene.texture + " "
    where = "in" if scene.position == "center" else "on"
    return (
        f"a {scene.size} {texture}{scene.color} {scene.shape} {where} the {scene.position}, "
        f"{scene.background} background"
    )


def vocabulary() -> list[str]:
    """Every word that is one token, in a fixed order."""
    words = [w for values in ATTRIBUTES.values() for w in values]
    words += [w for values in SYNONYMS.values() for w in values]
    for phrase in (*PREFIXES, *_PLACES, *_BACKGROUNDS, "object"):
        words += phrase.replace("{}", "").split()
    return list(dict.fromkeys(words + " ".join(_EXTRA_WORDS).split()))


VOCABULARY = vocabulary()
