"""Captioned still lifes: two or three solids on a floor in front of a wall.

A `Scene` is complete and frozen: the words that name it (shape, colour, texture, material and size of each solid, how
the first stands to the second, the colours of floor and wall) and the exact numbers drawn around them (place, yaw, hue,
light, camera). Everything random comes from the generator that the caller passes, so a seed fixes a data set.

Some words are held out: `sample_scene(rng)` never draws them, so that a model trained on it has not seen them and a
LoRA has something real to teach: a shape, a colour, a texture, and the styles other than "render".

Units: lengths in metres, angles in radians, colours RGB in [0, 1]. World axes: x right, y up, z away from the camera,
the floor is y = 0 and the camera stands above the origin.
"""

import colorsys
import math
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("sphere", "cube", "cone", "cylinder", "ring", "pyramid", "egg", "dome", "star")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white", "black")
TEXTURES = ("plain", "striped", "checkered", "dotted")
MATERIALS = ("matte", "shiny")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "in front of", "behind")
FLOORS = ("gray", "tan", "white", "dark")
WALLS = ("gray", "blue", "green", "tan", "pink", "dark")
STYLES = ("render", "pencil")
HELD_OUT = {"shape": ("star",), "color": ("cyan",), "texture": ("dotted",), "style": ("pencil",)}
OPPOSITE = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}

# Hue, saturation and value of each name; then the half width of the uniform jitter on each.
_SOLID_HSV = {
    "red": (0.995, 0.88, 0.84), "orange": (0.072, 0.90, 0.96), "yellow": (0.148, 0.82, 0.97),
    "green": (0.355, 0.74, 0.62), "cyan": (0.500, 0.76, 0.88), "blue": (0.620, 0.82, 0.82),
    "purple": (0.770, 0.66, 0.62), "pink": (0.930, 0.42, 0.98), "brown": (0.065, 0.62, 0.40),
    "white": (0.120, 0.03, 0.95), "black": (0.650, 0.10, 0.13),
}  # fmt: skip
_SOLID_JITTER = (0.010, 0.04, 0.03)
_ROOM_HSV = {"gray": (0.60, 0.03, 0.62), "blue": (0.585, 0.36, 0.70), "green": (0.300, 0.24, 0.62),
             "tan": (0.090, 0.36, 0.76), "pink": (0.980, 0.26, 0.80), "white": (0.120, 0.03, 0.90),
             "dark": (0.640, 0.14, 0.22)}  # fmt: skip
_ROOM_JITTER = (0.010, 0.03, 0.04)
_RADIUS, _SHRUNK = {"small": 0.44, "large": 0.68}, 0.84  # least share of a radius where there is little room
_Z, _VIEW = (3.3, 5.0), 0.425  # where solids stand: z between; half of the view at z = 1, less a margin
_WALL_Z, _CAMERA_Y = ((6.0, 7.5), (10.5, 13.0)), (1.4, 2.7)  # rooms and halls, so that depth is not known beforehand
_AIM = (0.68, 4.15)  # height and distance of the point that the camera looks at
_APART, _CLEAR = 0.95, 1.08  # metres of a relation; sum of radii times this
_ACROSS = {"left of": 0.5, "in front of": 1.0}  # metres across it at most
_SEEN = 0.66  # least distance of two solids in the picture, in the sum of their radii there
_TRIES = 200


@dataclass(frozen=True)
class Solid:
    """Words and numbers of one solid; `radius` scales it, (x, z) is where it stands."""

    shape: str
    color: str
    texture: str
    material: str
    size: str
    radius: float
    x: float
    z: float
    yaw: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """A still life; the first solid stands in `relation` to the second."""

    solids: tuple[Solid, ...]
    relation: str
    floor: str
    wall: str
    style: str
    floor_rgb: tuple[float, float, float]
    wall_rgb: tuple[float, float, float]
    wall_z: float
    camera_y: float
    camera_pitch: float
    light_azimuth: float
    light_elevation: float


def is_held_out(scene: Scene) -> bool:
    """Whether training never sees a word of this scene."""
    words = [(name, getattr(solid, name)) for solid in scene.solids for name in ("shape", "color", "texture")]
    return any(word in HELD_OUT[name] for name, word in [*words, ("style", scene.style)])


def sample_scene(rng: np.random.Generator, held_out: bool = False, count: int | None = None, **words: str) -> Scene:
    """Draw a scene of uniform words.

    Args:
        rng: where everything random comes from.
        held_out: whether words that training never sees may be drawn.
        count: of the solids, 2 or 3; None draws it.
        words: what the first solid or the scene must have, such as ``color="cyan"`` or ``style="pencil"``.

    Raises:
        ValueError: a word that there is not.
    """
    lists = {"shape": SHAPES, "color": COLORS, "texture": TEXTURES, "material": MATERIALS, "size": SIZES,
             "relation": RELATIONS, "floor": FLOORS, "wall": WALLS, "style": STYLES}  # fmt: skip
    for name, word in words.items():
        if word not in lists.get(name, ()):
            raise ValueError(f"{name} is {word!r}; choose one of {', '.join(lists.get(name, lists))}")

    def pick(name: str, first: bool = True) -> str:
        if first and name in words:
            return words[name]
        allowed = [word for word in lists[name] if held_out or word not in HELD_OUT.get(name, ())]
        return str(rng.choice(allowed))

    relation, number = pick("relation"), count or int(rng.choice([2, 3], p=[0.6, 0.4]))
    standing = None
    while standing is None:  # three large solids may have no room in a relation: others are drawn
        drawn: list[dict[str, str]] = []
        while len(drawn) < number:
            texture = "plain" if "texture" not in words and rng.uniform() < 0.5 else pick("texture", not drawn)
            names = ("shape", "color", "material", "size")
            solid = {name: pick(name, not drawn) for name in names} | {"texture": texture}
            if all((solid["shape"], solid["color"]) != (other["shape"], other["color"]) for other in drawn):
                drawn.append(solid)
        standing = _standing(rng, [_RADIUS[solid["size"]] * rng.uniform(0.95, 1.05) for solid in drawn], relation)
    radii, places = standing
    solids = tuple(
        Solid(**solid, radius=radius, x=x, z=z, yaw=rng.uniform(-0.5, 0.5),
              rgb=_jittered(rng, _SOLID_HSV[solid["color"]], _SOLID_JITTER))
        for solid, radius, (x, z) in zip(drawn, radii, places)
    )  # fmt: skip
    floor, wall, camera_y = pick("floor"), pick("wall"), rng.uniform(*_CAMERA_Y)
    pitch = math.atan((camera_y - _AIM[0]) / _AIM[1])
    return Scene(
        solids, relation, floor, wall, words.get("style", "render"),
        _jittered(rng, _ROOM_HSV[floor], _ROOM_JITTER), _jittered(rng, _ROOM_HSV[wall], _ROOM_JITTER),
        wall_z=rng.uniform(*_WALL_Z[rng.integers(len(_WALL_Z))]), camera_y=camera_y,
        camera_pitch=pitch + math.radians(rng.uniform(-1.0, 1.0)), light_azimuth=rng.uniform(-1.1, 1.1),
        light_elevation=math.radians(rng.uniform(40.0, 60.0)),
    )  # fmt: skip


def restyled(scene: Scene, style: str) -> Scene:
    """The same scene in another style."""
    return replace(scene, style=style)


def mirrored(scene: Scene) -> Scene:
    """The scene as a mirror shows it, left and right exchanged."""
    solids = tuple(replace(solid, x=-solid.x, yaw=-solid.yaw) for solid in scene.solids)
    relation = OPPOSITE[scene.relation] if scene.relation in ("left of", "right of") else scene.relation
    return replace(scene, solids=solids, relation=relation, light_azimuth=-scene.light_azimuth)


def _jittered(rng: np.random.Generator, hsv: tuple, jitter: tuple) -> tuple[float, float, float]:
    """RGB drawn uniformly from the box of half widths `jitter` around `hsv`."""
    h, s, v = (c + j * rng.uniform(-1, 1) for c, j in zip(hsv, jitter))
    return colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0.0), 1.0), min(max(v, 0.0), 1.0))


def _standing(
    rng: np.random.Generator, radii: list[float], relation: str
) -> tuple[list[float], list[tuple[float, float]]] | None:
    """Radii, a little smaller where there is little room, and places; None if there is no room."""
    for share in np.linspace(1.0, _SHRUNK, 4):
        smaller = [float(share) * radius for radius in radii]
        places = _places(rng, smaller, relation)
        if places is not None:
            return smaller, places
    return None


def _places(rng: np.random.Generator, radii: list[float], relation: str) -> list[tuple[float, float]] | None:
    """Where the solids stand, (x, z) of each, the first in its relation to the second; None if no place was found."""
    found: list[tuple[float, float]] = []
    for _ in range(_TRIES):
        radius, z = radii[len(found)], rng.uniform(*_Z)
        reach = max(0.0, _VIEW * (z - 0.6 * radius) - 1.35 * radius)  # corners stand out
        place = (rng.uniform(-reach, reach), z)
        if len(found) == 1 and not _stands(found[0], place, relation):
            continue
        if all(_clear(place, radius, other, size) for other, size in zip(found, radii)):
            found.append(place)
            if len(found) == len(radii):
                return found
    return None


def _stands(first: tuple[float, float], second: tuple[float, float], relation: str) -> bool:
    """Whether the first stands in that relation to the second, and clearly in no other one."""
    dx, dz = first[0] - second[0], first[1] - second[1]
    sideways = relation in ("left of", "right of")
    along, across = (dx, dz) if sideways else (dz, dx)
    sign = -1 if relation in ("left of", "in front of") else 1
    return sign * along > _APART and abs(across) < _ACROSS["left of" if sideways else "in front of"]


def _clear(place: tuple[float, float], radius: float, other: tuple[float, float], other_radius: float) -> bool:
    """Whether two solids neither touch nor hide much of each other."""
    in_picture = abs(place[0] / place[1] - other[0] / other[1])
    wide = radius / place[1] + other_radius / other[1]
    return math.dist(place, other) > _CLEAR * (radius + other_radius) and in_picture > _SEEN * wide
