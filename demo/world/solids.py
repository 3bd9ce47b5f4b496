"""Rays against solids: exact first hits, in the frame of the solid.

A solid stands on y = 0 around the y axis and is about one unit wide to either side. A ray is o + s d; `hit(o, d)` gives
the candidates (s, valid, normal) among which the nearest counts, (N,), (N,) and (N, 3). Quadrics are the roots of
a s^2 + 2 b s + c = 0; flat faces are slabs and polygons.
"""

import math
from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

Hit = tuple[Tensor, Tensor, Tensor]  # distance along the ray (N,), validity (N,), normal (N, 3)
TINY = 1e-9
BALL = (1.0, 1.8)
"""Height of the middle, and radius, of a ball around every solid."""


def nearest(hits: list[Hit]) -> tuple[Tensor, Tensor]:
    """Nearest valid hit: s (N,), infinite where there is none, and unit normal (N, 3)."""
    best = torch.full_like(hits[0][0], math.inf)
    normal = torch.zeros_like(hits[0][2])
    for s, valid, candidate in hits:
        closer = valid & (s > 1e-4) & (s < best)
        best = torch.where(closer, s, best)
        normal = torch.where(closer[..., None], candidate, normal)
    return best, functional.normalize(normal, dim=-1)


def _safe(value: Tensor) -> Tensor:
    return torch.where(value.abs() < TINY, torch.full_like(value, TINY), value)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both roots, the near one first where a > 0, and where they are real."""
    inside = b * b - a * c
    root = inside.clamp_min(0).sqrt()
    return (-b - root) / _safe(a), (-b + root) / _safe(a), inside > 0


def _flat(o: Tensor, d: Tensor, height: float, covers: Callable[[Tensor, Tensor], Tensor]) -> Hit:
    """A horizontal face: where `covers(x, z)`."""
    s = (height - o[..., 1]) / _safe(d[..., 1])
    x, z = o[..., 0] + s * d[..., 0], o[..., 2] + s * d[..., 2]
    return s, covers(x, z), d.new_tensor([0.0, 1.0, 0.0]).expand_as(d)


def _ellipsoid(o: Tensor, d: Tensor, center: float, half: tuple[float, float, float]) -> list[Hit]:
    """Ellipsoid around (0, center, 0) with half axes `half`, above the floor."""
    axes = o.new_tensor(half)
    p, q = (o - o.new_tensor([0.0, center, 0.0])) / axes, d / axes
    s, _, real = _roots((q * q).sum(-1), (p * q).sum(-1), (p * p).sum(-1) - 1)
    return [(s, real & (o[..., 1] + s * d[..., 1] >= 0), (p + s[..., None] * q) / axes)]


def _sphere(o: Tensor, d: Tensor) -> list[Hit]:
    return _ellipsoid(o, d, 1.0, (1.0, 1.0, 1.0))


def _egg(o: Tensor, d: Tensor) -> list[Hit]:
    return _ellipsoid(o, d, 1.3, (0.86, 1.3, 0.86))


def _dome(o: Tensor, d: Tensor) -> list[Hit]:
    """Half a sphere, flat side down."""
    return _ellipsoid(o, d, 0.0, (1.15, 1.15, 1.15))


def _cube(o: Tensor, d: Tensor, half: float = 0.82) -> list[Hit]:
    """Cube of half side `half` on y = 0, by slabs."""
    p, d = o - o.new_tensor([0.0, half, 0.0]), _safe(d)
    one, other = (-half - p) / d, (half - p) / d
    near, axis = torch.minimum(one, other).max(-1)
    normal = functional.one_hot(axis, 3).to(d.dtype) * -d.sign()
    return [(near, near < torch.maximum(one, other).amin(-1), normal)]


def _cylinder(o: Tensor, d: Tensor, radius: float = 0.78, height: float = 1.75) -> list[Hit]:
    """Upright cylinder: side and top (the bottom is never seen from above)."""
    ox, _, oz, dx, _, dz = *o.unbind(-1), *d.unbind(-1)
    s, _, real = _roots(dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - radius**2)
    p = o + s[..., None] * d
    side = (s, real & (p[..., 1] >= 0) & (p[..., 1] <= height), p * p.new_tensor([1.0, 0.0, 1.0]))
    return [side, _flat(o, d, height, lambda x, z: x * x + z * z <= radius**2)]


def _cone(o: Tensor, d: Tensor, radius: float = 1.0, height: float = 2.05) -> list[Hit]:
    """Upright cone: x^2 + z^2 = (k (height - y))^2 with k = radius / height."""
    k2 = (radius / height) ** 2
    ox, oy, oz, dx, dy, dz = *o.unbind(-1), *d.unbind(-1)
    *roots, real = _roots(dx * dx + dz * dz - k2 * dy * dy, ox * dx + oz * dz + k2 * (height - oy) * dy,
                          ox * ox + oz * oz - k2 * (height - oy) ** 2)  # fmt: skip
    hits = []
    for s in roots:
        p = o + s[..., None] * d
        normal = torch.stack([p[..., 0], k2 * (height - p[..., 1]), p[..., 2]], -1)
        hits.append((s, real & (p[..., 1] >= 0) & (p[..., 1] <= height), normal))
    return hits


def _ring(o: Tensor, d: Tensor, outer: float = 1.0, inner: float = 0.55, half: float = 0.32) -> list[Hit]:
    """Upright ring, its axis along z: outer and inner walls and the two flat faces."""
    p0 = o - o.new_tensor([0.0, outer, 0.0])
    ox, oy, oz, dx, dy, dz = *p0.unbind(-1), *d.unbind(-1)
    a, b, c = dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy
    hits = []
    for which, radius, sign in ((0, outer, 1.0), (1, inner, -1.0)):
        *roots, real = _roots(a, b, c - radius**2)
        p = p0 + roots[which][..., None] * d
        hits.append((roots[which], real & (p[..., 2].abs() <= half), p * p.new_tensor([sign, sign, 0.0])))
    for face in (-half, half):
        s = (face - oz) / _safe(dz)
        r2 = (ox + s * dx) ** 2 + (oy + s * dy) ** 2
        normal = d.new_tensor([0.0, 0.0, math.copysign(1.0, face)]).expand_as(d)
        hits.append((s, (r2 <= outer**2) & (r2 >= inner**2), normal))
    return hits


def _pyramid(o: Tensor, d: Tensor, half: float = 1.0, height: float = 1.9) -> list[Hit]:
    """Square pyramid: the half spaces of its four sides and of the floor, of which a ray is inside all."""
    sides = d.new_tensor([[1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1]]) * height
    normals = torch.cat([sides + d.new_tensor([0.0, half, 0.0]), d.new_tensor([[0.0, -1.0, 0.0]])])
    offsets = d.new_tensor([half * height] * 4 + [0.0])
    return _convex(o, d, normals, offsets)


def _convex(o: Tensor, d: Tensor, normals: Tensor, offsets: Tensor) -> list[Hit]:
    """Half spaces n . p <= offset, (F, 3) and (F,): the last entry counts if no exit lies before it."""
    slope, start = d @ normals.T, offsets - o @ normals.T
    s = start / _safe(slope)
    enter = torch.where(slope < 0, s, torch.full_like(s, -math.inf))
    leave = torch.where(slope > 0, s, torch.full_like(s, math.inf))
    outside = ((slope.abs() < TINY) & (start < 0)).any(-1)
    near, face = enter.max(-1)
    return [(near, (near < leave.amin(-1)) & ~outside, normals[face])]


def _star(o: Tensor, d: Tensor, outer: float = 1.12, inner: float = 0.5, half: float = 0.34) -> list[Hit]:
    """An upright five-pointed star, its axis along z: two flat faces and ten sides."""
    angles = torch.arange(10, dtype=d.dtype) * (math.pi / 5) + math.pi / 2
    lengths = torch.tensor([outer, inner] * 5, dtype=d.dtype)
    corners = torch.stack([angles.cos() * lengths, angles.sin() * lengths + 0.92], -1)
    following = corners.roll(-1, 0)
    edge = following - corners
    inward = torch.stack([-edge[:, 1], edge[:, 0]], -1)

    def covers(x: Tensor, y: Tensor) -> Tensor:
        """Even-odd rule."""
        above = corners[:, 1] > y[..., None]
        crosses = above != (following[:, 1] > y[..., None])
        at = corners[:, 0] + (y[..., None] - corners[:, 1]) * edge[:, 0] / _safe(edge[:, 1])
        return (crosses & (x[..., None] < at)).sum(-1) % 2 == 1

    hits = []
    for face in (-half, half):
        s = (face - o[..., 2]) / _safe(d[..., 2])
        inside = covers(o[..., 0] + s * d[..., 0], o[..., 1] + s * d[..., 1])
        hits.append((s, inside, d.new_tensor([0.0, 0.0, math.copysign(1.0, face)]).expand_as(d)))
    for start, along, normal in zip(corners, edge, -inward):
        across = d[..., 0] * normal[0] + d[..., 1] * normal[1]
        s = ((start[0] - o[..., 0]) * normal[0] + (start[1] - o[..., 1]) * normal[1]) / _safe(across)
        x, y, z = (o[..., i] + s * d[..., i] for i in range(3))
        place = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / (along @ along)
        valid = (across < 0) & (place >= 0) & (place <= 1) & (z.abs() <= half)
        hits.append((s, valid, torch.cat([normal, normal.new_zeros(1)]).expand_as(d)))
    return hits


SOLIDS = MappingProxyType(
    {"sphere": _sphere, "cube": _cube, "cone": _cone, "cylinder": _cylinder, "ring": _ring, "pyramid": _pyramid,
     "egg": _egg, "dome": _dome, "star": _star}
)  # fmt: skip
"""Shape -> its candidates of hits."""
