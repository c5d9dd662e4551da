"""Triangle meshes made from formulas: turned pieces (cups, bottles, knobs), rings, prisms."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mesh = tuple[NDArray[np.float64], NDArray[np.int64]]


def _rows_to_faces(rows: int, columns: int, closed: bool) -> NDArray[np.int64]:
    i, j = np.meshgrid(np.arange(rows - 1 + closed), np.arange(columns), indexing="ij")
    a = i * columns + j
    b = i * columns + (j + 1) % columns
    c = (i + 1) % rows * columns + j
    d = (i + 1) % rows * columns + (j + 1) % columns
    return np.concatenate([np.stack([a, b, d], -1), np.stack([a, d, c], -1)]).reshape(-1, 3)


def lathe(profile: ArrayLike, sides: int = 24) -> Mesh:
    """Turn a profile [(radius, z), ...] about z. List it from the bottom centre outwards and up.

    Ends on the axis (radius 0) close the piece.
    """
    points = np.asarray(profile, float)
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = np.stack([np.cos(angle), np.sin(angle)], -1)
    radius = np.maximum(points[:, 0], 1e-5)
    xy = radius[:, None, None] * ring
    z = np.broadcast_to(points[:, 1, None, None], (len(points), sides, 1))
    vertices = np.concatenate([xy, z], -1).reshape(-1, 3)
    return vertices, _rows_to_faces(len(points), sides, closed=False)


def torus(ring_radius: float, tube_radius: float, sides: int = 28, tube_sides: int = 8) -> Mesh:
    """A ring about z."""
    u = np.arange(sides) * 2 * np.pi / sides
    v = np.arange(tube_sides) * 2 * np.pi / tube_sides
    r = ring_radius + tube_radius * np.cos(v)[None, :]
    x, y = r * np.cos(u)[:, None], r * np.sin(u)[:, None]
    z = np.broadcast_to(tube_radius * np.sin(v), x.shape)
    faces = _rows_to_faces(sides, tube_sides, closed=True)[:, ::-1]
    return np.stack([x, y, z], -1).reshape(-1, 3), faces


def prism(outline: ArrayLike, height: float) -> Mesh:
    """A convex outline [(x, y), ...] (counter-clockwise) pulled up from z = 0 to `height`."""
    base = np.asarray(outline, float)
    n = len(base)
    bottom = np.concatenate([base, np.zeros((n, 1))], -1)
    top = np.concatenate([base, np.full((n, 1), height)], -1)
    i = np.arange(n)
    j = (i + 1) % n
    sides = np.concatenate([np.stack([i, j, n + j], -1), np.stack([i, n + j, n + i], -1)])
    fan = np.stack([np.zeros(n - 2, int), i[1:-1], i[2:]], -1)
    return np.concatenate([bottom, top]), np.concatenate([sides, fan[:, ::-1], fan + n])


def rounded_rectangle(half_x: float, half_y: float, radius: float, steps: int = 4) -> NDArray:
    """Counter-clockwise outline [(x, y), ...] of a rectangle with rounded corners."""
    angles = np.linspace(0, np.pi / 2, steps)
    corners = []
    for k, (sx, sy) in enumerate([(1, 1), (-1, 1), (-1, -1), (1, -1)]):
        centre = np.array([sx * (half_x - radius), sy * (half_y - radius)])
        a = angles + k * np.pi / 2
        corners.append(centre + radius * np.stack([np.cos(a), np.sin(a)], -1))
    return np.concatenate(corners)
