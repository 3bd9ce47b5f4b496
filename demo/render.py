"""Ray casting of scenes: exact intersections, Lambert shading, a soft contact shadow, exact depth.

A pinhole camera above the origin looks along +z, pitched down. A ray is `o + z * d` with `d` scaled to
unit camera depth, so the ray parameter of a hit IS the metric depth z along the optical axis. The
solid is intersected in its own frame (yaw undone, divided by its radius, standing on y = 0), which
leaves that parameter unchanged. Quadrics: a z^2 + 2 b z + c = 0. Every ray ends on the solid, the floor or the
wall, so depth is finite everywhere.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .scenes import Scene

HALF_FIELD = 0.45  # tangent of half the field of view
DEPTH_NEAR, DEPTH_FAR = 2.0, 7.0  # metres; the range that depth images map to [0, 1]
_CHUNK = 32  # scenes per pass; bounds memory
_AMBIENT, _DIFFUSE, _SPECULAR = 0.42, 0.62, 0.16

Hit = tuple[Tensor, Tensor, Tensor]  # depth (B, N), validity (B, N), normal (B, N, 3)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both roots of a z^2 + 2 b z + c, the nearer first where a > 0, and whether they are real."""
    disc = b * b - a * c
    root = disc.clamp_min(0).sqrt()
    a = torch.where(a.abs() < 1e-9, torch.full_like(a, 1e-9), a)
    return (-b - root) / a, (-b + root) / a, disc > 0


def _sphere(o: Tensor, d: Tensor) -> list[Hit]:
    """Unit sphere around (0, 1, 0)."""
    p = o - o.new_tensor([0.0, 1.0, 0.0])
    z, _, real = _roots((d * d).sum(-1), (p * d).sum(-1), (p * p).sum(-1) - 1)
    return [(z, real, p + z[..., None] * d)]


def _cube(o: Tensor, d: Tensor, half: float = 0.82) -> list[Hit]:
    """Axis-aligned cube of half side `half` on y = 0, by the slab method."""
    p = o - o.new_tensor([0.0, half, 0.0])
    d = torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    first = torch.minimum((-half - p) / d, (half - p) / d)
    last = torch.maximum((-half - p) / d, (half - p) / d)
    near, axis = first.max(-1)
    normal = torch.nn.functional.one_hot(axis, 3).to(d.dtype) * -d.sign()
    return [(near, near < last.amin(-1), normal)]


def _cylinder(o: Tensor, d: Tensor, radius: float = 0.78, height: float = 1.75) -> list[Hit]:
    """Upright cylinder on y = 0: side and top (the bottom is never visible from above)."""
    ox, oy, oz, dx, dy, dz = *o.unbind(-1), *d.unbind(-1)
    z, _, real = _roots(dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - radius**2)
    p = o + z[..., None] * d
    side = (z, real & (p[..., 1] >= 0) & (p[..., 1] <= height), p * p.new_tensor([1.0, 0.0, 1.0]))
    z = (height - oy) / torch.where(dy.abs() < 1e-9, torch.full_like(dy, 1e-9), dy)
    on_top = (ox + z * dx) ** 2 + (oz + z * dz) ** 2 <= radius**2
    return [side, (z, on_top, d.new_tensor([0.0, 1.0, 0.0]).expand_as(d))]


def _cone(o: Tensor, d: Tensor, radius: float = 1.0, height: float = 2.05) -> list[Hit]:
    """Upright cone on y = 0: x^2 + z^2 = (k (height - y))^2 with k = radius / height."""
    k2 = (radius / height) ** 2
    ox, oy, oz, dx, dy, dz = *o.unbind(-1), *d.unbind(-1)
    roots = _roots(
        dx * dx + dz * dz - k2 * dy * dy,
        ox * dx + oz * dz + k2 * (height - oy) * dy,
        ox * ox + oz * oz - k2 * (height - oy) ** 2,
    )
    hits = []
    for z in roots[:2]:
        p = o + z[..., None] * d
        normal = torch.stack([p[..., 0], k2 * (height - p[..., 1]), p[..., 2]], -1)
        hits.append((z, roots[2] & (p[..., 1] >= 0) & (p[..., 1] <= height), normal))
    return hits


def _ring(o: Tensor, d: Tensor, outer: float = 1.0, inner: float = 0.55, half: float = 0.32) -> list[Hit]:
    """Upright ring, its axis along z: outer and inner walls and the two flat faces."""
    p0 = o - o.new_tensor([0.0, 1.0, 0.0])
    ox, oy, oz, dx, dy, dz = *p0.unbind(-1), *d.unbind(-1)
    a, b, c = dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy
    hits = []
    for which, radius, sign in ((0, outer, 1.0), (1, inner, -1.0)):
        roots = _roots(a, b, c - radius**2)
        p = p0 + roots[which][..., None] * d
        normal = p * p.new_tensor([sign, sign, 0.0])
        hits.append((roots[which], roots[2] & (p[..., 2].abs() <= half), normal))
    for face in (-half, half):
        z = (face - oz) / torch.where(dz.abs() < 1e-9, torch.full_like(dz, 1e-9), dz)
        r2 = (ox + z * dx) ** 2 + (oy + z * dy) ** 2
        normal = d.new_tensor([0.0, 0.0, math.copysign(1.0, face)]).expand_as(d)
        hits.append((z, (r2 <= outer**2) & (r2 >= inner**2), normal))
    return hits


_SOLIDS: dict[str, Callable[[Tensor, Tensor], list[Hit]]] = {
    "sphere": _sphere,
    "cube": _cube,
    "cone": _cone,
    "cylinder": _cylinder,
    "ring": _ring,
}


def _nearest(hits: list[Hit]) -> tuple[Tensor, Tensor]:
    """Nearest valid hit: depth (B, N), inf where there is none, and unit normal (B, N, 3)."""
    best = torch.full_like(hits[0][0], math.inf)
    normal = torch.zeros_like(hits[0][2])
    for z, valid, n in hits:
        closer = valid & (z > 1e-4) & (z < best)
        best = torch.where(closer, z, best)
        normal = torch.where(closer[..., None], n, normal)
    return best, torch.nn.functional.normalize(normal, dim=-1)


def _camera_rays(size: int, pitch: Tensor, half_field: float) -> Tensor:
    """Directions (B, size^2, 3) of unit camera depth through pixel centres, for pitches (B,)."""
    grid = ((torch.arange(size) + 0.5) / size * 2 - 1) * half_field
    v, u = torch.meshgrid(-grid, grid, indexing="ij")
    u, v = u.reshape(1, -1), v.reshape(1, -1)
    cos, sin = pitch.cos()[:, None], pitch.sin()[:, None]
    return torch.stack([u.expand(len(pitch), -1), v * cos - sin, v * sin + cos], -1)


def _column(scenes: Sequence[Scene], name: str) -> Tensor:
    """One field of every scene: (B,), or (B, 3) for a colour."""
    return torch.tensor([getattr(s, name) for s in scenes], dtype=torch.float32)


def _yaw(v: Tensor, angle: Tensor) -> Tensor:
    """Rotate vectors (B, N, 3) about the y axis by angles (B,)."""
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y, z = v.unbind(-1)
    return torch.stack([cos * x - sin * z, y.expand_as(cos * x), sin * x + cos * z], -1)


def _contact_shadow(point: Tensor, center: Tensor, radius: Tensor, light: Tensor) -> Tensor:
    """Brightness factor (B, N) of floor points (B, N, 3): a Gaussian blob stretched away from the light."""
    away = torch.nn.functional.normalize(-light[:, [0, 2]], dim=-1)[:, None]
    rel = (point - center)[..., [0, 2]] / radius[:, None, None] - 0.45 * away
    along = (rel * away).sum(-1)
    across2 = (rel * rel).sum(-1) - along**2
    return 1 - 0.62 * torch.exp(-0.9 * (along / 1.25) ** 2 - 0.9 * across2)


def _trace(scenes: Sequence[Scene], size: int, color: bool, half_field: float) -> tuple[Tensor | None, Tensor]:
    """Colours (B, size^2, 3), or None without `color`, and depth (B, size^2) of scenes of ONE shape."""
    origin = torch.zeros(len(scenes), 1, 3)
    origin[:, 0, 1] = _column(scenes, "camera_y")
    d = _camera_rays(size, _column(scenes, "camera_pitch"), half_field)
    center = torch.stack([_column(scenes, "x"), torch.zeros(len(scenes)), _column(scenes, "z")], -1)[:, None]
    radius, yaw = _column(scenes, "radius"), _column(scenes, "yaw")
    local_o = _yaw((origin - center) / radius[:, None, None], yaw)
    local_d = _yaw(d / radius[:, None, None], yaw)
    solid_z, normal = _nearest(_SOLIDS[scenes[0].shape](local_o.expand_as(local_d), local_d))
    floor_z = torch.where(d[..., 1] < 0, -origin[..., 1] / d[..., 1].clamp_max(-1e-9), math.inf)
    wall_z = _column(scenes, "wall_z")[:, None] / d[..., 2]
    depth = torch.minimum(solid_z, torch.minimum(floor_z, wall_z))
    if not color:
        return None, depth
    az, el = _column(scenes, "light_azimuth"), _column(scenes, "light_elevation")
    light = torch.stack([az.sin() * el.cos(), el.sin(), -az.cos() * el.cos()], -1)
    point = origin + depth[..., None] * d
    floor_shade = (_AMBIENT + _DIFFUSE * light[:, 1])[:, None] * _contact_shadow(point, center, radius, light)
    wall_shade = 0.82 + 0.09 * point[..., 1].clamp(0, 3)
    room = torch.where(
        (floor_z < wall_z)[..., None],
        _column(scenes, "floor_rgb")[:, None] * floor_shade[..., None],
        _column(scenes, "wall_rgb")[:, None] * wall_shade[..., None],
    )
    hit = torch.isfinite(solid_z) & (solid_z <= depth)
    height = torch.where(hit, point[..., 1] / radius[:, None], 0.0)
    solid = _shade_solid(scenes, height, normal, local_d, _yaw(light[:, None], yaw))
    return torch.where(hit[..., None], solid, room).clamp(0, 1), depth


def _shade_solid(scenes: Sequence[Scene], height: Tensor, normal: Tensor, d: Tensor, light: Tensor) -> Tensor:
    """Lambert plus a Blinn highlight, in the solid's frame; stripes alternate with height (radii)."""
    rgb = _column(scenes, "object_rgb")[:, None]
    striped = torch.tensor([s.texture == "striped" for s in scenes])[:, None]
    other = torch.tensor([0.2 if s.color == "white" else 0.95 for s in scenes])[:, None, None]
    band = striped & (torch.sin(2 * math.pi * 1.9 * height) < 0)
    base = torch.where(band[..., None], other, rgb)
    view = -torch.nn.functional.normalize(d, dim=-1)
    half = torch.nn.functional.normalize(view + light, dim=-1)
    lambert = (normal * light).sum(-1).clamp_min(0)
    gloss = (normal * half).sum(-1).clamp_min(0) ** 24
    return base * (_AMBIENT + _DIFFUSE * lambert)[..., None] + _SPECULAR * gloss[..., None]


def _render_chunk(scenes: Sequence[Scene], size: int, samples: int, half_field: float) -> tuple[Tensor, Tensor]:
    """Images (B, size, size, 3) and depths (B, size, size) of scenes of one shape."""
    rgb, _ = _trace(scenes, size * samples, True, half_field)
    rgb = rgb.view(len(scenes), size, samples, size, samples, 3).mean((2, 4))
    _, depth = _trace(scenes, size, False, half_field)
    return rgb, depth.view(len(scenes), size, size)


def render_batch(
    scenes: Sequence[Scene], size: int = 96, samples: int = 2, half_field: float = HALF_FIELD
) -> tuple[Tensor, Tensor]:
    """Render many scenes.

    scenes: B scenes; size: pixels per side; samples: antialiasing samples along each side of a pixel; half_field:
    tangent of half the field of view.
    Returns images (B, size, size, 3) float32 in [0, 1] and depth (B, size, size) float32 in metres
    along the optical axis, taken at pixel centres.
    """
    images = torch.empty(len(scenes), size, size, 3)
    depths = torch.empty(len(scenes), size, size)
    for shape in _SOLIDS:
        rows = [i for i, s in enumerate(scenes) if s.shape == shape]
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            images[part], depths[part] = _render_chunk([scenes[i] for i in part], size, samples, half_field)
    return images, depths


def render(scene: Scene, size: int = 96, samples: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image (size, size, 3) float32 in [0, 1] and metric depth (size, size) float32."""
    image, depth = render_batch([scene], size, samples)
    return image[0].numpy(), depth[0].numpy()


def depth_image(depth: Tensor) -> Tensor:
    """Metric depth (..., H, W) as a grey image (..., H, W, 3) in [0, 1]: near is dark, far is bright."""
    grey = ((depth - DEPTH_NEAR) / (DEPTH_FAR - DEPTH_NEAR)).clamp(0, 1)
    return grey[..., None].expand(*grey.shape, 3)
