"""What surfaces look like: textures, materials, and the two styles.

Arguments of light are unit vectors; points are in the frame of a solid, in its radii.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

AMBIENT, DIFFUSE = 0.40, 0.64
_SHININESS, _GLOSS, _MIRROR = 32.0, 0.85, 0.24
_BANDS, _CELL, _DOT = 1.25, 0.72, 0.26  # stripes per radius, side of checkers and dots, radius of a dot


def second_color(rgb: Tensor) -> Tensor:
    """Of a texture: nearly white; gray on white and black solids, which would look the same otherwise; (..., 3)."""
    gray = ((rgb.mean(-1, keepdim=True) - 0.50).abs() > 0.33).expand_as(rgb)
    return torch.where(gray, torch.full_like(rgb, 0.50), torch.full_like(rgb, 0.96))


def textured(texture: str, rgb: Tensor, point: Tensor, normal: Tensor) -> Tensor:
    """Colour of points (N, 3) of a solid of colour (3,)."""
    if texture == "plain":
        return rgb.expand_as(point)
    if texture == "striped":
        other = torch.sin(2 * math.pi * _BANDS * point[..., 1]) < 0
    else:
        u, v = _along_the_surface(point, normal)
        cell = torch.stack([u, v], -1) / _CELL
        if texture == "checkered":
            other = cell.floor().sum(-1) % 2 == 1
        else:
            other = (cell - cell.floor() - 0.5).norm(dim=-1) * _CELL < _DOT
    return torch.where(other[..., None], second_color(rgb), rgb)


def _along_the_surface(point: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """The two coordinates across the axis that a surface faces most."""
    axis = normal.abs().argmax(-1)
    x, y, z = (point + 0.04).unbind(-1)
    return torch.where(axis == 0, z, x), torch.where(axis == 1, z, y)


def shaded(rgb: Tensor, normal: Tensor, view: Tensor, light: Tensor, lit: Tensor, shiny: bool, room: Tensor) -> Tensor:
    """Lambert, and for shiny solids a Blinn highlight and a little of the room.

    Args:
        rgb, normal, view: of each point, (N, 3); `view` leads to the camera.
        light: direction to the light, (3,).
        lit: share of the light that arrives, (N,).
        shiny: the material.
        room: colours of floor and wall, (2, 3).
    """
    lambert = (normal @ light).clamp_min(0) * lit
    diffuse = rgb * (AMBIENT * (0.8 + 0.2 * normal[..., 1]) + DIFFUSE * lambert)[..., None]
    if not shiny:
        return diffuse
    half = functional.normalize(view + light, dim=-1)
    gloss = (normal * half).sum(-1).clamp_min(0) ** _SHININESS * lit
    mirrored = 2 * (normal * view).sum(-1, keepdim=True) * normal - view
    up = (mirrored[..., 1:2] * 2 + 0.5).clamp(0, 1)
    seen = room[0] * (1 - up) + room[1] * up
    return (1 - _MIRROR) * diffuse + _MIRROR * seen + _GLOSS * gloss[..., None]


def pencil(rgb: Tensor, depth: Tensor, number: Tensor) -> Tensor:
    """The picture as a pencil drawing on paper: outlines, and hatching that grows denser with darkness.

    Args:
        rgb, depth, number: colours (H, W, 3), depth and number of the solid (0 for the room) of each point (H, W).
    """
    height, width = depth.shape
    y, x = torch.meshgrid(torch.arange(height) * (256 / height), torch.arange(width) * (256 / width), indexing="ij")
    dark = (1 - rgb.mean(-1)) * torch.where(number == 0, 0.75, 1.0)
    ink = torch.zeros_like(depth)
    for slope, threshold in ((1.0, 0.40), (-1.0, 0.62), (0.25, 0.80)):
        line = torch.sin((x + slope * y) * (2 * math.pi / 8.0)) > 0.30
        ink = torch.where(line & (dark > threshold), ink + 0.30, ink)
    edge = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (0, 1):
        for reach in (1, 2):
            jump = (depth - depth.roll(reach, axis)).abs() > 0.09 * depth
            edge |= jump | (number != number.roll(reach, axis))
    edge[:2], edge[:, :2] = False, False
    value = torch.where(edge, torch.full_like(ink, 0.15), 0.97 - ink)
    return value[..., None] * depth.new_tensor([1.0, 0.985, 0.95])
