"""Pinhole cameras: random viewpoints, projection to and from the unit square."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fpt_ros.data.scenes.layout import Layout

Rng = np.random.Generator
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A square pinhole camera.

    position [3] in the world (m); rotation [3, 3], columns = right, up, backward in the world
    (the camera looks along -backward); tangent: half width of the image plane at distance 1.
    """

    position: Array
    rotation: Array
    tangent: float

    def project(self, points: Array) -> tuple[Array, Array]:
        """World points [..., 3] to unit-square positions [..., 2] and depths [...] (m).

        Depth is along the viewing axis; positions of points behind the camera are meaningless.
        """
        local = (points - self.position) @ self.rotation
        depth = -local[..., 2]
        scale = 0.5 / (self.tangent * np.where(np.abs(depth) < 1e-9, 1e-9, depth))
        x = 0.5 + local[..., 0] * scale
        y = 0.5 - local[..., 1] * scale
        return np.stack([x, y], -1), depth

    def unproject(self, unit: Array, depth: Array) -> Array:
        """Unit-square positions [..., 2] at depths [...] (m) to world points [..., 3]."""
        half = self.tangent * depth
        local = np.stack(
            [(2 * unit[..., 0] - 1) * half, (1 - 2 * unit[..., 1]) * half, -depth], axis=-1
        )
        return local @ self.rotation.T + self.position

    def rays(self, unit: Array) -> Array:
        """Directions [..., 3] in the world, of length 1 along the viewing axis."""
        return self.unproject(unit, np.ones(unit.shape[:-1])) - self.position


def look_at(position: Array, target: Array, roll: float, tangent: float) -> Camera:
    """A camera at `position` looking at `target`, tilted by `roll` rad."""
    backward = position - target
    backward = backward / np.linalg.norm(backward)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right = right / max(float(np.linalg.norm(right)), 1e-9)
    up = np.cross(backward, right)
    c, s = np.cos(roll), np.sin(roll)
    return Camera(
        position, np.stack([c * right + s * up, c * up - s * right, backward], -1), tangent
    )


def random_camera(rng: Rng, layout: Layout, close_up: Array | None) -> Camera:
    """A viewpoint as robots have it: slightly above, in front, not too far.

    close_up: a point [3] to look at from nearer than the whole thing would need, or None.
    """
    tangent = float(np.tan(np.radians(rng.uniform(32, 66)) / 2))
    low, high = {"wall": (-8, 35), "floor": (3, 50), "table": (8, 65)}[layout.support]
    elevation = np.radians(rng.uniform(low, high))
    if layout.azimuth < 2:
        azimuth = float(np.clip(rng.normal(0, 0.55), -1, 1)) * layout.azimuth
    else:
        azimuth = rng.uniform(-np.pi, np.pi)
    zoom = float(np.exp(rng.uniform(np.log(0.65), np.log(1.7))))
    focus, radius = np.asarray(layout.focus), layout.radius
    if close_up is not None:
        focus = close_up
        radius = max(0.07, radius * rng.uniform(0.35, 0.8))
    focus = focus + rng.normal(0, 0.18, 3) * radius
    distance = max(0.25, radius * zoom / tangent)
    direction = np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    return look_at(focus + distance * direction, focus, rng.normal(0, 0.03), tangent)


def moved_camera(rng: Rng, camera: Camera, distance: float) -> tuple[Array, Array]:
    """A small motion of a hand-held or robot-mounted camera.

    distance: to the scene (m). Returns translation [3] (m) and rotation vector [3] (rad).
    """
    amount = rng.uniform(0.3, 1.0)
    shift = camera.rotation @ rng.normal(0, 0.02, 3) * distance * amount
    return shift, rng.normal(0, 0.018, 3) * amount


def displaced(camera: Camera, shift: Array, turn: Array, fraction: float) -> Camera:
    """The camera after `fraction` of the motion from `moved_camera`."""
    angle = float(np.linalg.norm(turn)) * fraction
    if angle == 0.0:
        return Camera(camera.position + shift * fraction, camera.rotation, camera.tangent)
    k = turn / np.linalg.norm(turn)
    cross = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return Camera(camera.position + shift * fraction, rotation @ camera.rotation, camera.tangent)
