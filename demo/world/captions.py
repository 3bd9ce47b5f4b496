"""Captions of still lifes: "a red cube left of a small striped cone, gray floor, blue wall".

Every solid is named by its shape and colour; size, texture, material, floor and wall are named or left out at random,
with synonyms. The relation of the first solid to the second is named as it is or turned around. `plain_caption` is
the prompt of pictures to be evaluated.
"""

import numpy as np

from .scenes import COLORS, FLOORS, MATERIALS, OPPOSITE, RELATIONS, SHAPES, SIZES, STYLES, TEXTURES, WALLS, Scene, Solid

SYNONYMS = {
    "sphere": ("sphere", "ball"), "cube": ("cube", "box"), "cylinder": ("cylinder", "tube"),
    "ring": ("ring", "donut"), "small": ("small", "little", "tiny"), "large": ("large", "big", "huge"),
    "gray": ("gray", "grey"), "purple": ("purple", "violet"), "dark": ("dark", "black"),
    "shiny": ("shiny", "glossy"), "checkered": ("checkered", "checked"),
    "left of": ("left of", "to the left of"), "right of": ("right of", "to the right of"),
    "in front of": ("in front of", "before"), "pencil": ("a pencil drawing of", "a pencil sketch of"),
}  # fmt: skip
NAMED = {"size": 0.45, "texture": 0.92, "material": 0.40, "relation": 0.88, "floor": 0.5, "wall": 0.5}
"""How often a word is named; shape and colour always are, a plain texture never is."""
PREFIXES = ("", "", "a picture of", "a render of")
_EXTRA_WORDS = (
    "an and is it its the one two three to by near next beside under over on in with at middle center background",
    "photo image painting drawing sketch scene object thing toy still life light shadow soft bright round square tall",
    "flat silver gold teal magenta lime torus heart triangle spotted textured wooden metal glass poster watercolor ink",
    "depth map style color no not",
)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of random words and length."""

    def word(name: str) -> str:
        return str(rng.choice(SYNONYMS.get(name, (name,))))

    def named(solid: Solid) -> str:
        words = [solid.size] * (rng.uniform() < NAMED["size"])
        words += [solid.material] * (rng.uniform() < NAMED["material"])
        words += [solid.texture] * (solid.texture != "plain" and rng.uniform() < NAMED["texture"])
        return _with_article(" ".join(map(word, [*words, solid.color, solid.shape])))

    first, second, *third = scene.solids
    relation = scene.relation
    if rng.uniform() < 0.5:
        first, second, relation = second, first, OPPOSITE[relation]
    between = word(relation) if rng.uniform() < NAMED["relation"] else "and"
    text = f"{named(first)} {between} {named(second)}"
    text += "".join(f" and {named(solid)}" for solid in third)
    room = [f"{word(getattr(scene, part))} {part}" for part in ("floor", "wall") if rng.uniform() < NAMED[part]]
    prefix = word("pencil") if scene.style == "pencil" else str(rng.choice(PREFIXES))
    return ", ".join([f"{prefix} {text}".strip(), *room])


def plain_caption(scene: Scene) -> str:
    """Every solid's texture, colour and shape, and the relation, in the plainest words."""
    first, second, *third = (_with_article(_plain(solid)) for solid in scene.solids)
    prefix = f"{SYNONYMS['pencil'][0]} " if scene.style == "pencil" else ""
    return f"{prefix}{first} {scene.relation} {second}" + "".join(f" and {solid}" for solid in third)


def _plain(solid: Solid) -> str:
    return " ".join([*[solid.texture] * (solid.texture != "plain"), solid.color, solid.shape])


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def vocabulary() -> list[str]:
    """Every word that is one token, in a fixed order; the extra ones are for what fine-tuning may teach."""
    words = [*SHAPES, *COLORS, *TEXTURES, *MATERIALS, *SIZES, *RELATIONS, *FLOORS, *WALLS, *STYLES, "floor", "wall"]
    words += [word for options in SYNONYMS.values() for word in options]
    text = " ".join([*words, *PREFIXES, *_EXTRA_WORDS, "a"])
    return list(dict.fromkeys(text.split()))


VOCABULARY = vocabulary()
