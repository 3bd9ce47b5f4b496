"""Ray casting of still lifes: exact intersections, soft shadows, textures and materials, exact depth and masks.

A pinhole camera above the origin looks along +z, pitched down. A ray is o + z d with d scaled to unit camera depth, so
that the ray parameter of a hit is the metric depth along the optical axis. A solid is met in its own frame (yaw undone,
divided by its radius), which keeps that parameter. Every ray ends on a solid, the floor or the wall, so depth is finite
everywhere. Each sample of a pixel sees another point of a round light, which makes shadows soft.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .scenes import MATERIALS, Scene, Solid
from .solids import BALL, SOLIDS, nearest
from .surfaces import AMBIENT, DIFFUSE, pencil, shaded, textured

SIDE = 128
HALF_FIELD = 0.44  # tangent of half the field of view
DEPTH_NEAR, DEPTH_FAR = 2.0, 13.0  # metres; the range that depth images map to [0, 1]
_LIGHT_SIZE = 0.16  # radius of the light at unit distance


class Rendered(NamedTuple):
    """Pictures (B, H, W, 3) in [0, 1], depth in metres (B, H, W), and the number of the solid seen, 1 for the first
    and 0 for the room, uint8 (B, H, W); depth and numbers are those at the centres of the pixels."""

    images: Tensor
    depths: Tensor
    numbers: Tensor


class _View(NamedTuple):
    """N rays of a scene and what they meet first."""

    origin: Tensor  # (1, 3)
    direction: Tensor  # (N, 3)
    depth: Tensor  # (N,)
    number: Tensor  # (N,), 0 for the room
    normal: Tensor  # (N, 3)


def render_batch(scenes: Sequence[Scene], side: int = SIDE, samples: int = 2) -> Rendered:
    """Render scenes at ``side`` pixels with ``samples`` x ``samples`` rays per pixel."""
    return Rendered(*(torch.stack(column) for column in zip(*(_render(scene, side, samples) for scene in scenes))))


def depth_image(depth: Tensor) -> Tensor:
    """Metric depth (..., H, W) as a grey image (..., H, W, 3) in [0, 1]: near is light, far is dark."""
    grey = ((DEPTH_FAR - depth) / (DEPTH_FAR - DEPTH_NEAR)).clamp(0, 1)
    return grey[..., None].expand(*grey.shape, 3)


def _render(scene: Scene, side: int, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Picture, depth and numbers of one scene."""
    fine = side * samples
    view = _look(scene, fine)
    colors = _colors(scene, view, fine).view(fine, fine, 3)
    if scene.style == "pencil":
        colors = pencil(colors, view.depth.view(fine, fine), view.number.view(fine, fine))
    parts = colors.view(side, samples, side, samples, 3)
    image = sum(parts[:, i, :, j] for i in range(samples) for j in range(samples)) / samples**2
    exact = view if samples == 1 else _look(scene, side)
    return image.clamp(0, 1), exact.depth.view(side, side), exact.number.view(side, side)


def _look(scene: Scene, side: int) -> _View:
    """First hits of the camera's rays through the centres of side x side pixels."""
    origin, d = torch.tensor([[0.0, scene.camera_y, 0.0]]), _camera_rays(side, scene.camera_pitch)
    floor = torch.where(d[:, 1] < 0, -scene.camera_y / d[:, 1].clamp_max(-1e-9), math.inf)
    wall = scene.wall_z / d[:, 2]
    depth, number = torch.minimum(floor, wall), torch.zeros(len(d), dtype=torch.uint8)
    normal = torch.where((floor < wall)[:, None], torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, -1.0]))
    camera = _Rays(origin, d)
    for slot, solid in enumerate(scene.solids, 1):
        rays = camera.near(solid)
        found, faces = camera.hit(solid, rays)
        closer = found < depth[rays]
        rays = rays[closer]
        depth[rays], number[rays], normal[rays] = found[closer], slot, _turned(faces[closer], -solid.yaw)
    return _View(origin, d, depth, number, normal)


def _colors(scene: Scene, view: _View, side: int) -> Tensor:
    """Colours of all rays, (N, 3)."""
    point = view.origin + view.depth[:, None] * view.direction
    toward, light = _light(scene, side)
    lit = _lit(scene, view, point + 2e-3 * view.normal, light, side)
    room = torch.tensor([scene.floor_rgb, scene.wall_rgb])
    floor = (AMBIENT + DIFFUSE * toward[1] * lit) * _contact(scene, point)
    wall = (0.74 + 0.09 * point[:, 1].clamp(0, 3)) * (0.72 + 0.28 * lit)
    on_floor = (view.normal[:, 1] > 0.5)[:, None]
    colors = torch.where(on_floor, room[0], room[1]) * torch.where(on_floor, floor[:, None], wall[:, None])
    for slot, solid in enumerate(scene.solids, 1):
        rays = (view.number == slot).nonzero().flatten()
        to_camera = -functional.normalize(view.direction[rays], dim=-1)
        colors[rays] = _surface(solid, point[rays], view.normal[rays], to_camera, toward, lit[rays], room)
    return colors


def _surface(
    solid: Solid, point: Tensor, normal: Tensor, view: Tensor, light: Tensor, lit: Tensor, room: Tensor
) -> Tensor:
    """Colours of points (N, 3) on one solid."""
    local = _turned((point - torch.tensor([solid.x, 0.0, solid.z])) / solid.radius, solid.yaw)
    base = textured(solid.texture, torch.tensor(solid.rgb), local, _turned(normal, solid.yaw))
    low = 0.74 + 0.26 * (local[:, 1:2] * 1.6).clamp(0, 1)  # less light comes near the floor
    return shaded(base, normal, view, light, lit, solid.material == MATERIALS[1], room) * low


def _lit(scene: Scene, view: _View, start: Tensor, light: Tensor, side: int) -> Tensor:
    """Share of the light that arrives at each point, (N,); smoothed over neighbours on floor and wall."""
    lit, rays = torch.ones(len(start)), _Rays(start, light)
    for solid in scene.solids:
        near = rays.near(solid)
        found, _ = rays.hit(solid, near)
        lit[near[torch.isfinite(found)]] = 0.0
    room = (view.number == 0).float()
    light_here, room_here = _around(torch.stack([lit * room, room]).view(2, side, side)).view(2, -1)
    return torch.where(room > 0, light_here / room_here.clamp_min(0.25), lit)


def _around(values: Tensor, reach: int = 2) -> Tensor:
    """Sums over the squares of ``2 * reach + 1`` pixels around each pixel of (N, H, W)."""
    for axis, padding in ((-1, (reach, reach)), (-2, (0, 0, reach, reach))):
        wide, length = functional.pad(values, padding), values.shape[axis]
        values = sum(wide.narrow(axis, shift, length) for shift in range(2 * reach + 1))
    return values


def _light(scene: Scene, side: int) -> tuple[Tensor, Tensor]:
    """Direction to the middle of the light, (3,), and to the point of its disc that each ray sees, (side^2, 3)."""
    azimuth, elevation = scene.light_azimuth, scene.light_elevation
    cos = math.cos(elevation)
    toward = torch.tensor([math.sin(azimuth) * cos, math.sin(elevation), -math.cos(azimuth) * cos])
    right = torch.tensor([math.cos(azimuth), 0.0, math.sin(azimuth)])
    up = torch.linalg.cross(right, toward)
    spot = (_spots(side) * _LIGHT_SIZE)[..., None]
    return toward, functional.normalize(toward + spot[0] * right + spot[1] * up, dim=-1)


@cache
def _spots(side: int) -> Tensor:
    """Points of the unit disc for side x side rays, (2, side^2): blue noise would be ideal, fixed white noise will do
    where several rays share a pixel and each of these has a ring of the disc of its own."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    ring = ((y % 2) * 2 + x % 2).flatten() + torch.rand(side * side, generator=generator)
    angle = 2 * math.pi * torch.rand(side * side, generator=generator)
    return (ring / 4).sqrt() * torch.stack([angle.cos(), angle.sin()])


def _contact(scene: Scene, point: Tensor) -> Tensor:
    """How much of the room's light reaches the floor beside the solids, (N,)."""
    factor = torch.ones(len(point))
    for solid in scene.solids:
        away = ((point[:, 0] - solid.x).square() + (point[:, 2] - solid.z).square()) / solid.radius**2
        factor *= 1 - 0.42 * torch.exp(-1.1 * away)
    return factor


class _Rays:
    """Rays (N, 3), with what every test against a ball needs of them."""

    def __init__(self, origin: Tensor, direction: Tensor) -> None:
        self.origin, self.direction = origin, direction
        self.length = _dot(direction, direction)
        self.along, self.far = _dot(origin, direction), _dot(origin, origin)

    def near(self, solid: Solid) -> Tensor:
        """Numbers of the rays that pass through the ball around a solid; only these can hit it."""
        center = torch.tensor([solid.x, solid.radius * BALL[0], solid.z])
        along = self.direction @ center - self.along
        away = self.far - 2 * (self.origin @ center) + center @ center
        inside = (away - (solid.radius * BALL[1]) ** 2) * self.length < along * along
        return (inside & (along > 0)).nonzero().flatten()

    def hit(self, solid: Solid, rays: Tensor) -> tuple[Tensor, Tensor]:
        """First hits of some of the rays, as of ``_hit``."""
        return _hit(solid, self.origin.expand(len(self.direction), 3)[rays], self.direction[rays])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _hit(solid: Solid, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """First hits of rays (N, 3) on a solid: s (N,), infinite where there is none, and normals in its own frame."""
    local = _turned((origin - torch.tensor([solid.x, 0.0, solid.z])) / solid.radius, solid.yaw)
    return nearest(SOLIDS[solid.shape](local, _turned(direction / solid.radius, solid.yaw)))


def _camera_rays(side: int, pitch: float) -> Tensor:
    """Directions (side^2, 3) of unit camera depth through the centres of pixels."""
    grid = ((torch.arange(side) + 0.5) / side * 2 - 1) * HALF_FIELD
    v, u = torch.meshgrid(-grid, grid, indexing="ij")
    u, v = u.flatten(), v.flatten()
    return torch.stack([u, v * math.cos(pitch) - math.sin(pitch), v * math.sin(pitch) + math.cos(pitch)], -1)


def _turned(v: Tensor, angle: float) -> Tensor:
    """Vectors (N, 3) turned about the y axis."""
    cos, sin = math.cos(angle), math.sin(angle)
    x, y, z = v.unbind(-1)
    return torch.stack([cos * x - sin * z, y, sin * x + cos * z], -1)
