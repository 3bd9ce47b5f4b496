"""Captioned scenes: one solid on a floor in front of a wall.

A `Scene` is a complete, frozen description: the words that name it (shape, colour, texture, size,
position, background) and the exact numbers sampled around them (pose, hue, light, camera). All
randomness comes from the `numpy.random.Generator` that the caller passes, so a seed fixes a data set.

Some combinations are held out: `sample_scene(rng)` never samples them, so a model trained on its scenes
does not know them, and a LoRA has something real to teach. See `is_held_out`.

Units: lengths in metres, angles in radians, colours RGB in [0, 1]. World axes: x right, y up, z away
from the camera, the floor is y = 0 and the camera stands above the origin.
"""

import colorsys
import math
from dataclasses import dataclass

import numpy as np

SHAPES = ("sphere", "cube", "cone", "cylinder", "ring")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white")
TEXTURES = ("plain", "striped")
SIZES = ("small", "large")
POSITIONS = ("left", "center", "right")
BACKGROUNDS = ("gray", "blue", "green", "tan", "black")
ATTRIBUTES = {
    "shape": SHAPES,
    "color": COLORS,
    "texture": TEXTURES,
    "size": SIZES,
    "position": POSITIONS,
    "background": BACKGROUNDS,
}

HELD_OUT_PAIRS = (("purple", "cone"), ("yellow", "cube"), ("green", "ring"), ("pink", "cylinder"))
HELD_OUT_COLORS = ("cyan",)
HELD_OUT_TEXTURES = ("striped",)

# Hue, saturation and value of each name; below each table, the half widths of the uniform jitter on them.
_OBJECT_HSV = {
    "red": (0.995, 0.90, 0.86),
    "orange": (0.078, 0.92, 0.97),
    "yellow": (0.152, 0.85, 0.97),
    "green": (0.345, 0.78, 0.68),
    "cyan": (0.500, 0.80, 0.88),
    "blue": (0.615, 0.85, 0.85),
    "purple": (0.765, 0.72, 0.68),
    "pink": (0.925, 0.42, 0.99),
    "white": (0.120, 0.02, 0.96),
}
_OBJECT_JITTER = (0.012, 0.05, 0.03)
_WALL_HSV = {
    "gray": (0.60, 0.03, 0.60),
    "blue": (0.585, 0.42, 0.66),
    "green": (0.350, 0.30, 0.60),
    "tan": (0.090, 0.38, 0.74),
    "black": (0.650, 0.12, 0.15),
}
_WALL_JITTER = (0.010, 0.03, 0.03)
_FLOOR_HSV, _FLOOR_JITTER = (0.09, 0.12, 0.62), (0.02, 0.05, 0.08)
_RADIUS = {"small": 0.52, "large": 0.82}
_CENTER_X = {"left": -0.88, "center": 0.0, "right": 0.88}


@dataclass(frozen=True)
class Scene:
    """Words and numbers of one scene; see the module docstring for units and axes."""

    shape: str
    color: str
    texture: str
    size: str
    position: str
    background: str
    radius: float
    x: float
    z: float
    yaw: float
    object_rgb: tuple[float, float, float]
    wall_rgb: tuple[float, float, float]
    floor_rgb: tuple[float, float, float]
    wall_z: float
    camera_y: float
    camera_pitch: float
    light_azimuth: float
    light_elevation: float


def is_held_out(shape: str, color: str, texture: str) -> bool:
    """Whether this combination is held out of training: a held-out pair, colour or texture."""
    return (color, shape) in HELD_OUT_PAIRS or color in HELD_OUT_COLORS or texture in HELD_OUT_TEXTURES


def _jittered_rgb(rng: np.random.Generator, hsv: tuple, jitter: tuple) -> tuple[float, float, float]:
    """Sample an RGB triple uniformly from the HSV box of half widths `jitter` around `hsv`."""
    h, s, v = (c + j * rng.uniform(-1, 1) for c, j in zip(hsv, jitter))
    return colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0.0), 1.0), min(max(v, 0.0), 1.0))


def make_scene(
    rng: np.random.Generator,
    shape: str,
    color: str,
    texture: str = "plain",
    size: str = "large",
    position: str = "center",
    background: str = "gray",
) -> Scene:
    """Sample the numbers of a scene with given words, held out or not. Raises ValueError for an unknown word."""
    words = {
        "shape": shape,
        "color": color,
        "texture": texture,
        "size": size,
        "position": position,
        "background": background,
    }
    for name, word in words.items():
        if word not in ATTRIBUTES[name]:
            raise ValueError(f"{name} is {word!r}; choose one of {', '.join(ATTRIBUTES[name])}")
    return Scene(
        **words,
        radius=_RADIUS[size] * rng.uniform(0.92, 1.08),
        x=_CENTER_X[position] + rng.uniform(-0.12, 0.12),
        z=3.9 + rng.uniform(-0.2, 0.2),
        yaw=rng.uniform(-0.45, 0.45),
        object_rgb=_jittered_rgb(rng, _OBJECT_HSV[color], _OBJECT_JITTER),
        wall_rgb=_jittered_rgb(rng, _WALL_HSV[background], _WALL_JITTER),
        floor_rgb=_jittered_rgb(rng, _FLOOR_HSV, _FLOOR_JITTER),
        wall_z=6.2 + rng.uniform(-0.4, 0.4),
        camera_y=1.75 + rng.uniform(-0.1, 0.1),
        camera_pitch=math.radians(14.0 + rng.uniform(-1.5, 1.5)),
        light_azimuth=rng.uniform(-1.0, 1.0),
        light_elevation=math.radians(rng.uniform(42.0, 62.0)),
    )


def sample_scene(rng: np.random.Generator, held_out: bool | None = False) -> Scene:
    """Sample a scene with uniformly distributed words.

    held_out: False for training combinations only, True for held-out combinations only, None for any.
    """
    while True:
        words = {name: str(rng.choice(values)) for name, values in ATTRIBUTES.items()}
        if held_out is None or is_held_out(words["shape"], words["color"], words["texture"]) == held_out:
            return make_scene(rng, **words)
